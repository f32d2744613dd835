// In place of `daddend`, where nobody wants it.

fn write_daddend(row: Row, p: vec4<u32>, i: vec4<u32>, g: vec4<f32>) {}
