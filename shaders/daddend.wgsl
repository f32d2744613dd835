// The addend's gradient: the one behind the epilogue, 0 where the mask counts nothing.

fn write_daddend(row: Row, p: vec4<u32>, i: vec4<u32>, g: vec4<f32>) {
  store_gradient(i, p, row.end, keep(g, row, p));
}
