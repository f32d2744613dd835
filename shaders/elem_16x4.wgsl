// Elements: 16 bits, packed by two into words, four at a time. Runs of elements start at, and are as long as, a
// multiple of four. A step is four neighbouring elements of each lane.

alias Cell = vec2<u32>;

@group(0) @binding(1) var<storage, read> x: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read> addend: array<vec2<u32>>;
@group(0) @binding(9) var<storage, read> dy: array<vec2<u32>>;
@group(0) @binding(15) var<storage, read_write> gradient: array<vec2<u32>>;

// Positions in the row of the elements of a lane's step.
fn positions(step: u32, lane: u32) -> vec4<u32> {
  return vec4((step * LANES + lane) * 4u) + vec4(0u, 1u, 2u, 3u);
}

fn unpack(words: vec2<u32>) -> vec4<f32> {
  return widen(vec4(words.x & 0xffffu, words.x >> 16u, words.y & 0xffffu, words.y >> 16u));
}

fn pack(v: vec4<f32>) -> vec2<u32> {
  let bits = narrow(v);
  return vec2(bits.x | (bits.y << 16u), bits.z | (bits.w << 16u));
}

fn load_x(index: vec4<u32>) -> vec4<f32> {
  return unpack(x_at((index.x + task.base.x) / 4u));
}

fn first_x(index: u32) -> f32 {
  return load_x(vec4(index)).x;
}

fn load_addend(index: vec4<u32>) -> vec4<f32> {
  return unpack(addend[(index.x + task.base.z) / 4u]);
}

fn load_dy(index: vec4<u32>) -> vec4<f32> {
  return unpack(dy[(index.x + task.base.w) / 4u]);
}

// Writes the elements that lie before `end`.
fn store_y(index: vec4<u32>, p: vec4<u32>, end: u32, v: vec4<f32>) {
  if p.x < end {
    y[(index.x + task.base.y) / 4u] = pack(v);
  }
}

// The same of the addend's gradient.
fn store_gradient(index: vec4<u32>, p: vec4<u32>, end: u32, v: vec4<f32>) {
  if p.x < end {
    gradient[(index.x + task.param_base.z) / 4u] = pack(v);
  }
}
