// Elements: 16 bits, packed by two into words, one at a time, for rows of any length at any stride.
// A word may hold elements of two rows, or of the application's beside them. Each half is written by one lane alone
// and atomically, so that the other half keeps what it has, whatever the order.

alias Cell = u32;

@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<atomic<u32>>;
@group(0) @binding(3) var<storage, read> addend: array<u32>;
@group(0) @binding(9) var<storage, read> dy: array<u32>;
@group(0) @binding(15) var<storage, read_write> gradient: array<atomic<u32>>;

// Positions in the row of the elements of a lane's step.
fn positions(step: u32, lane: u32) -> vec4<u32> {
  return vec4(step * LANES * 4u + lane) + vec4(0u, 1u, 2u, 3u) * LANES;
}

// The half of each word that holds the element.
fn half_of(words: vec4<u32>, i: vec4<u32>) -> vec4<f32> {
  return widen((words >> ((i % 2u) * 16u)) & vec4(0xffffu));
}

fn load_x(index: vec4<u32>) -> vec4<f32> {
  let i = index + task.base.x;
  return half_of(vec4(x_at(i.x / 2u), x_at(i.y / 2u), x_at(i.z / 2u), x_at(i.w / 2u)), i);
}

fn first_x(index: u32) -> f32 {
  return load_x(vec4(index)).x;
}

fn load_addend(index: vec4<u32>) -> vec4<f32> {
  let i = index + task.base.z;
  return half_of(vec4(addend[i.x / 2u], addend[i.y / 2u], addend[i.z / 2u], addend[i.w / 2u]), i);
}

fn load_dy(index: vec4<u32>) -> vec4<f32> {
  let i = index + task.base.w;
  return half_of(vec4(dy[i.x / 2u], dy[i.y / 2u], dy[i.z / 2u], dy[i.w / 2u]), i);
}

fn store_half(i: u32, bits: u32) {
  let shift = (i % 2u) * 16u;
  atomicAnd(&y[i / 2u], ~(0xffffu << shift));
  atomicOr(&y[i / 2u], bits << shift);
}

// Writes the elements that lie before `end`.
fn store_y(index: vec4<u32>, p: vec4<u32>, end: u32, v: vec4<f32>) {
  let i = index + task.base.y;
  let bits = narrow(v);
  if p.x < end { store_half(i.x, bits.x); }
  if p.y < end { store_half(i.y, bits.y); }
  if p.z < end { store_half(i.z, bits.z); }
  if p.w < end { store_half(i.w, bits.w); }
}

fn store_half_of_gradient(i: u32, bits: u32) {
  let shift = (i % 2u) * 16u;
  atomicAnd(&gradient[i / 2u], ~(0xffffu << shift));
  atomicOr(&gradient[i / 2u], bits << shift);
}

// The same of the addend's gradient.
fn store_gradient(index: vec4<u32>, p: vec4<u32>, end: u32, v: vec4<f32>) {
  let i = index + task.param_base.z;
  let bits = narrow(v);
  if p.x < end { store_half_of_gradient(i.x, bits.x); }
  if p.y < end { store_half_of_gradient(i.y, bits.y); }
  if p.z < end { store_half_of_gradient(i.z, bits.z); }
  if p.w < end { store_half_of_gradient(i.w, bits.w); }
}
