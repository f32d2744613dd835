// The addend of the epilogue.

override ADDEND: bool = false;

fn plus_addend(v: vec4<f32>, i: vec4<u32>) -> vec4<f32> {
  if ADDEND { return v + load_addend(i); }
  return v;
}
