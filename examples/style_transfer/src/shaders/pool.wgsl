// pool: of each 2x2 elements of a plane the largest, NaN if one is; a last odd row or column is left out.
// Grid: x columns of the output, y its rows, as far as a grid goes and then again from its start, z planes.
// host twin: src/host.rs

struct Shape {
    in_height: u32,
    in_width: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

fn is_nan(v: f32) -> bool {
    return (bitcast<u32>(v) & 0x7fffffffu) > 0x7f800000u;
}

// NaN if one of them is, by its bits: `max` may drop it.
fn largest(a: f32, b: f32) -> f32 {
    return select(select(max(a, b), b, is_nan(b)), a, is_nan(a));
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let height = shape.in_height / 2u;
    let width = shape.in_width / 2u;
    for (var row = id.y; row < height; row += groups.y) {
        for (var column = id.x; column < width; column += 64u * groups.x) {
            let top = (id.z * shape.in_height + 2u * row) * shape.in_width + 2u * column;
            let bottom = top + shape.in_width;
            y[(id.z * height + row) * width + column] =
                largest(largest(x[top], x[top + 1u]), largest(x[bottom], x[bottom + 1u]));
        }
    }
}
