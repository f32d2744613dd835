// As x_shared.wgsl, where y is written atomically.

override SHARED: bool = false;

fn x_at(i: u32) -> Cell {
  if SHARED { return atomicLoad(&y[i]); }
  return x[i];
}
