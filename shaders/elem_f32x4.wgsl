// Elements: f32, four at a time. Rows start at, and are as long as, a multiple of four elements.
// A step is four neighbouring elements of each lane.

@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> addend: array<vec4<f32>>;

// Positions in the row of the elements of a lane's step.
fn positions(step: u32, lane: u32) -> vec4<u32> {
  return vec4((step * LANES + lane) * 4u) + vec4(0u, 1u, 2u, 3u);
}

fn load_x(start: u32, p: vec4<u32>) -> vec4<f32> {
  return x[(start + task.base.x + p.x) / 4u];
}

fn first_x(start: u32) -> f32 {
  return x[(start + task.base.x) / 4u].x;
}

fn load_addend(start: u32, p: vec4<u32>) -> vec4<f32> {
  return addend[(start + task.base.z + p.x) / 4u];
}

fn store_y(start: u32, p: vec4<u32>, end: u32, v: vec4<f32>) {
  if p.x < end {
    y[(start + task.base.y + p.x) / 4u] = v;
  }
}
