// x in a binding of its own, or in y's: no buffer is read and written through two bindings in one dispatch.
// In place an element is written by the lane that has read it. What others read of it, the first of a group, goes
// into the sums that every write waits for.

override SHARED: bool = false;

fn x_at(i: u32) -> Cell {
  if SHARED { return y[i]; }
  return x[i];
}
