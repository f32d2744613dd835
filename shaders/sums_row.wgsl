// sums_row: the count, Σg and Σg·xhat of one slice of a group, g times the weight when WEIGHTED.
// Sums of 16 blocks of 16 values each are added up apart, so that a long walk loses no more than a short one.
// Writes the addend's gradient on the way, where that is wanted.
// group(0): task · x · addend · weight · bias · moments · dy · sums (written) · mask, and gradient (written)
// host twin: src/host/grads.rs

override WEIGHTED: bool = false;

@group(0) @binding(10) var<storage, read_write> sums: array<vec4<f32>>;

fn products(row: Row, step: u32, whole: vec3<f32>) -> vec3<f32> {
  let p = positions(step, row.lane);
  let i = elements(row, p);
  let xhat = xhat_of(row, p, load_x(i), whole);
  var g = gradient_at(row, p, i, xhat);
  write_daddend(row, p, i, g);
  if WEIGHTED { g *= load_weight(row, p); }
  return vec3(sum4(keep(vec4(1.0), row, p)), sum4(keep(g, row, p)), sum4(keep(g * xhat, row, p)));
}

@compute @workgroup_size(WG)
fn sums_row(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) grid: vec3<u32>,
  @builtin(local_invocation_index) invocation: u32,
) {
  let row = row_of(workgroup, grid, invocation);
  let whole = row_stat(row);
  let blocks = (task.slicing.y + LANES * 16u - 1u) / (LANES * 16u);
  var all = vec3(0.0);
  var some = vec3(0.0);
  for (var block = 0u; block < blocks; block++) {
    let step = block * 4u;
    some += (products(row, step, whole) + products(row, step + 1u, whole))
      + (products(row, step + 2u, whole) + products(row, step + 3u, whole));
    if block % 16u == 15u {
      all += some;
      some = vec3(0.0);
    }
  }
  let total = row_sum(row, vec4(all + some, 0.0));
  if row.lane == 0u && row.end > 0u {
    sums[row.group * task.slicing.x + row.slice] = total;
  }
}
