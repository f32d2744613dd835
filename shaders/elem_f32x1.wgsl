// Elements: f32, one at a time, for rows of any length at any offset.
// A step is four elements of each lane, LANES apart, so that neighbouring lanes touch neighbouring elements.

@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read> addend: array<f32>;

// Positions in the row of the elements of a lane's step.
fn positions(step: u32, lane: u32) -> vec4<u32> {
  return vec4(step * LANES * 4u + lane) + vec4(0u, 1u, 2u, 3u) * LANES;
}

fn load_x(start: u32, p: vec4<u32>) -> vec4<f32> {
  let i = p + vec4(start + task.base.x);
  return vec4(x[i.x], x[i.y], x[i.z], x[i.w]);
}

fn first_x(start: u32) -> f32 {
  return x[start + task.base.x];
}

fn load_addend(start: u32, p: vec4<u32>) -> vec4<f32> {
  let i = p + vec4(start + task.base.z);
  return vec4(addend[i.x], addend[i.y], addend[i.z], addend[i.w]);
}

fn store_y(start: u32, p: vec4<u32>, end: u32, v: vec4<f32>) {
  let i = p + vec4(start + task.base.y);
  if p.x < end { y[i.x] = v.x; }
  if p.y < end { y[i.y] = v.y; }
  if p.z < end { y[i.z] = v.z; }
  if p.w < end { y[i.w] = v.w; }
}
