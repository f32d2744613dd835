// Prelude of every kernel: the task, the geometry of a workgroup, moments and their merge, reductions.
// A module is this file + element files + one kernel; WGSL does not care about order.
//
// A workgroup of WG lanes is split into ROWS rows of LANES lanes. A row works on one slice of one group; a group
// that is not split is its own only slice. Neighbouring lanes belong to one row, or with COLUMNS to neighbouring
// rows: where a group's elements lie apart and its neighbours' side by side (channels last, parameter gradients).

struct Task {
  extent: vec4<u32>,  // group_outer, group_inner, reduce_outer, reduce_inner
  data: vec4<u32>,    // strides of x, y, dy, addend
  param: vec4<u32>,   // strides of weight and bias
  stat: vec4<u32>,    // strides of the statistics
  mask: vec4<u32>,    // strides of the mask
  span: vec4<u32>,    // first group, first slice, slices per group in this dispatch, rows in all
  slicing: vec4<u32>, // slices per group in all, elements of a slice, elements of a group, partials per statistic
  base: vec4<u32>,    // added to an index to find it in the binding of x, y, addend, dy
  param_base: vec4<u32>, // the same for weight, bias, gradient; and how many rows a row of lanes takes in turn
  scalars: vec4<f32>, // eps, momentum, 1 - momentum, slope of a leaky ReLU
  style: vec4<f32>,   // factor of weight, factor of bias, subtracted from a count to divide m2 by, 1 to take rows backwards
}

@group(0) @binding(0) var<uniform> task: Task;

override WG: u32 = 256u;
override ROWS: u32 = 1u;
override LANES: u32 = WG / ROWS;
override TAKEN: u32 = ROWS;      // rows that work; the others are idle
override KIN: u32 = 1u;          // rows side by side that are one group, in statistics and their gradients
override COLUMNS: bool = false;
override DENSE: bool = true;     // a group is a contiguous run of elements
override CENTERED: bool = true;  // the mean is subtracted

// What one row of lanes works on.
struct Row {
  slot: u32,  // of this lane in `slots`: a row's are side by side
  lane: u32,
  group: u32,
  slice: u32,
  start: u32, // index of the group's first element
  first: u32, // position in the group of the slice's first element
  end: u32,   // elements of the slice; 0 for the idle rows of the last workgroup
}

fn row_of(workgroup: vec3<u32>, grid: vec3<u32>, invocation: u32) -> Row {
  // The grid is folded: WebGPU allows 65535 workgroups per dimension.
  return row_at(workgroup.x + workgroup.y * grid.x, invocation);
}

// A lane's row, of the `block`th TAKEN rows.
fn row_at(block: u32, invocation: u32) -> Row {
  var row = invocation / LANES;
  var lane = invocation % LANES;
  if COLUMNS {
    row = invocation % ROWS;
    lane = invocation / ROWS;
  }
  let taken = row < TAKEN;
  var item = block * TAKEN + row;
  // What the pass before read last is still in the cache.
  if task.style.w != 0.0 && item < task.span.w { item = task.span.w - 1u - item; }
  var group = item / task.span.z;
  var slice = item % task.span.z;
  if COLUMNS {
    let groups = task.span.w / task.span.z;
    group = item % groups;
    slice = item / groups;
  }
  group += task.span.x;
  slice += task.span.y;
  let first = slice * task.slicing.y;
  let end = select(0u, min(task.slicing.y, task.slicing.z - first), taken && item < task.span.w);
  return Row(row * LANES + lane, lane, group, slice, along(task.data, group), first, end);
}

// Index of a group along an operand's strides.
fn along(strides: vec4<u32>, group: u32) -> u32 {
  return (group / task.extent.y) * strides.x + (group % task.extent.y) * strides.y;
}

// The same of positions in the row's slice.
fn inside(strides: vec4<u32>, row: Row, p: vec4<u32>) -> vec4<u32> {
  let q = p + row.first;
  let outer = q / task.extent.w;
  return outer * strides.z + (q - outer * task.extent.w) * strides.w;
}

// Index of a row's statistics.
fn statistic(row: Row) -> u32 {
  if KIN > 1u {
    return row.group / KIN;
  }
  return along(task.stat, row.group);
}

// Indices of elements of a row.
fn elements(row: Row, p: vec4<u32>) -> vec4<u32> {
  if DENSE {
    return p + (row.start + row.first);
  }
  return inside(task.data, row, p) + row.start;
}

// By its bits: a compiler may take comparisons with infinity and NaN for constants.
fn finite(v: f32) -> bool {
  return (bitcast<u32>(v) & 0x7f800000u) != 0x7f800000u;
}

// select for integers, which OpenGL before 4.5 has not.
fn pick(f: vec4<u32>, t: vec4<u32>, condition: vec4<bool>) -> vec4<u32> {
  let taken = vec4(0u) - vec4<u32>(condition);
  return (f & ~taken) | (t & taken);
}

// Where v <= 0; not where it is NaN. By the bits: Mesa takes select(v, 0, v < 0) for max(v, 0), which drops NaN.
fn not_above_zero(v: vec4<f32>) -> vec4<bool> {
  return (bitcast<vec4<i32>>(v) <= vec4(0)) & (bitcast<vec4<u32>>(v) <= vec4(0xff800000u));
}

// max(v, 0) that keeps NaN.
fn not_negative(v: vec4<f32>) -> vec4<f32> {
  return select(v, vec4(0.0), not_above_zero(v));
}

// A value to take distances from. Not an infinite one: distances from it are NaN, the mean is that infinity.
fn anchor(v: f32) -> f32 {
  return select(0.0, v, finite(v));
}

// Moments of a set of values: (count, mean, residual of the mean, sum of squared deviations). The mean is the sum of
// two floats: at mean 1e6 one float alone is off by 3e-2. The set of nothing is all zeros.
fn merge(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
  // "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", STAN-CS-79-773. Counts merge as
  // a·(b/n), never as a product of integers.
  let n = a.x + b.x;
  let share = b.x / max(n, 1.0);
  let delta = (b.y - a.y) + (b.z - a.z);
  // The merged mean as a residual from either side's first float; the nearer one loses less. A two-sum of both
  // floats would do too, but drivers may simplify (a + s) - a to s (Mesa does).
  let from_a = a.z + delta * share;
  let from_b = b.z - delta * (1.0 - share);
  let near_a = abs(from_a) <= abs(from_b);
  // An infinite mean stays that infinity.
  let usual = finite(delta);
  let both = vec4(
    n,
    select(a.y + b.y, select(b.y, a.y, near_a), usual),
    select(0.0, select(from_b, from_a, near_a), usual),
    a.w + b.w + delta * delta * (a.x * share),
  );
  return select(select(both, b, a.x == 0.0), a, b.x == 0.0);
}

// 1/sqrt(var + eps). With eps 0 a constant group has xhat 0, not NaN; so has one whose variance is subnormal, where
// devices may flush to 0 and divide by it. A negative variance, which running statistics
// can have (a momentum outside 0..1), gives NaN as in PyTorch; the builtin may give anything.
fn rstd_of(variance: f32) -> f32 {
  let v = variance + task.scalars.x;
  let bits = bitcast<u32>(v);
  let root = bitcast<f32>(select(bitcast<u32>(inverseSqrt(v)), bits | 0x7fc00000u, bits > 0x80000000u));
  return select(root, 0.0, (bits & 0x7f800000u) == 0u);
}

// The variance that moments stand for.
fn variance_of(moments: vec4<f32>) -> f32 {
  return moments.w / max(moments.x - task.style.z, 1.0);
}

var<workgroup> slots: array<vec4<f32>, WG>;

const SUM = 0u;
const MERGE = 1u; // of moments
const FIRST = 2u; // the one with the smallest x

// What the lanes of a row hold together, known to all of them. Called by all lanes: it holds barriers.
fn row_reduce(row: Row, value: vec4<f32>, how: u32) -> vec4<f32> {
  if LANES == 1u {
    return value;
  }
  slots[row.slot] = value;
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if row.lane < half {
      let mine = slots[row.slot];
      let other = slots[row.slot + half];
      if how == MERGE {
        slots[row.slot] = merge(mine, other);
      } else if how == FIRST {
        slots[row.slot] = select(mine, other, other.x < mine.x);
      } else {
        slots[row.slot] = mine + other;
      }
    }
  }
  workgroupBarrier();
  let total = slots[row.slot - row.lane];
  workgroupBarrier(); // the slots may be written again
  return total;
}

fn row_sum(row: Row, value: vec4<f32>) -> vec4<f32> {
  return row_reduce(row, value, SUM);
}

fn row_merge(row: Row, value: vec4<f32>) -> vec4<f32> {
  return row_reduce(row, value, MERGE);
}

// What rows that are one group have together, where all lanes of each know what theirs has.
fn kin_sum(row: Row, value: vec4<f32>) -> vec4<f32> {
  slots[row.slot] = value;
  workgroupBarrier();
  let number = row.slot / LANES;
  let first = number - number % KIN;
  var total = vec4(0.0);
  for (var other = 0u; other < KIN; other++) {
    total += slots[min(first + other, ROWS - 1u) * LANES];
  }
  workgroupBarrier(); // the slots may be written again
  return total;
}

fn sum4(v: vec4<f32>) -> f32 {
  return (v.x + v.y) + (v.z + v.w);
}
