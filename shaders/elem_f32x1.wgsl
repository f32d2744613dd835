// Elements: f32, one at a time, for rows of any length at any offset and stride.
// A step is four elements of each lane, LANES apart, so that neighbouring lanes touch neighbouring elements.

alias Cell = f32;

@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read> addend: array<f32>;
@group(0) @binding(9) var<storage, read> dy: array<f32>;
@group(0) @binding(15) var<storage, read_write> gradient: array<f32>;

// Positions in the row of the elements of a lane's step.
fn positions(step: u32, lane: u32) -> vec4<u32> {
  return vec4(step * LANES * 4u + lane) + vec4(0u, 1u, 2u, 3u) * LANES;
}

fn load_x(index: vec4<u32>) -> vec4<f32> {
  let i = index + task.base.x;
  return vec4(x_at(i.x), x_at(i.y), x_at(i.z), x_at(i.w));
}

fn first_x(index: u32) -> f32 {
  return x_at(index + task.base.x);
}

fn load_addend(index: vec4<u32>) -> vec4<f32> {
  let i = index + task.base.z;
  return vec4(addend[i.x], addend[i.y], addend[i.z], addend[i.w]);
}

fn load_dy(index: vec4<u32>) -> vec4<f32> {
  let i = index + task.base.w;
  return vec4(dy[i.x], dy[i.y], dy[i.z], dy[i.w]);
}

// Writes the elements that lie before `end`.
fn store_y(index: vec4<u32>, p: vec4<u32>, end: u32, v: vec4<f32>) {
  let i = index + task.base.y;
  if p.x < end { y[i.x] = v.x; }
  if p.y < end { y[i.y] = v.y; }
  if p.z < end { y[i.z] = v.z; }
  if p.w < end { y[i.w] = v.w; }
}

// The same of the addend's gradient.
fn store_gradient(index: vec4<u32>, p: vec4<u32>, end: u32, v: vec4<f32>) {
  let i = index + task.param_base.z;
  if p.x < end { gradient[i.x] = v.x; }
  if p.y < end { gradient[i.y] = v.y; }
  if p.z < end { gradient[i.z] = v.z; }
  if p.w < end { gradient[i.w] = v.w; }
}
