// Which elements of a row count: those of its slice, and of them those the mask counts.

@group(0) @binding(11) var<storage, read> mask: array<u32>; // a byte per sample and position

override MASKED: bool = false;

fn counted(row: Row, p: vec4<u32>) -> vec4<bool> {
  let within = p < vec4(row.end);
  if !MASKED {
    return within;
  }
  let i = inside(task.mask, row, p) + along(task.mask, row.group);
  let words = vec4(mask[i.x / 4u], mask[i.y / 4u], mask[i.z / 4u], mask[i.w / 4u]);
  return within & (((words >> ((i % 4u) * 8u)) & vec4(255u)) != vec4(0u));
}

// The values that count, 0 in place of the others, which may be NaN, or a neighbour's.
fn keep(values: vec4<f32>, row: Row, p: vec4<u32>) -> vec4<f32> {
  return select(vec4(0.0), values, counted(row, p));
}

// Of two candidates for a value to take distances from, (position, value), the earlier one.
fn earlier(best: vec2<f32>, position: u32, value: f32, counts: bool) -> vec2<f32> {
  let p = f32(position);
  return select(best, vec2(p, value), counts && p < best.x);
}

const NOWHERE = 3.0e38;

// The first element of a step that counts, if it is earlier than `best`.
fn first_of(best: vec2<f32>, values: vec4<f32>, row: Row, p: vec4<u32>) -> vec2<f32> {
  let counts = counted(row, p);
  var b = earlier(best, p.x, values.x, counts.x);
  b = earlier(b, p.y, values.y, counts.y);
  b = earlier(b, p.z, values.z, counts.z);
  return earlier(b, p.w, values.w, counts.w);
}
