// x in a binding of its own.

fn x_at(i: u32) -> Cell {
  return x[i];
}
