// conv: a convolution as an implicit matrix product, out[o, p] = bias[o] + sum over k of weight[k, o] * patch[k, p].
//   o output channel, p output pixel (row by row), k = (input channel * KERNEL + kernel row) * KERNEL + kernel column.
// The patch matrix exists in no memory: lanes compute where each of its elements lies in the input, nearest upsampling
// and reflection padding included, so neither is a pass of its own.
// A workgroup makes a tile of channels x pixels, STEP values of k at a time in workgroup memory; a lane makes 8 x 8 of
// it in registers (4 x 8 where BLOCKS is 1): the fewer values are loaded per product the better, everywhere, but most
// of all on software GPUs, where a load costs as much as dozens of products. A lane's pixels lie LANES_P apart, so that
// neighbouring lanes touch neighbouring memory in every load and store. Registers are written out, not looped over:
// naga bounds each loop with a counter, which keeps drivers from unrolling it.
// Where an instance norm follows, a workgroup also writes the moments of each channel over its pixels, while it has
// them in registers: the norm then need not read the output for its statistics.
// Grid: x pixel tiles of this window, y channel tiles.
// host twin: src/host.rs

override KERNEL: u32 = 3;
override STRIDE: u32 = 1;
override UPSAMPLE: u32 = 1;
override RELU: u32 = 0; // 1: negative outputs become 0
override STATISTICS: u32 = 0; // 1: moments are written
override LANES_O: u32 = 8;
override LANES_P: u32 = 8;
override BLOCKS: u32 = 2; // of four channels per lane: 1 or 2
override STEP: u32 = 16;
// Follow from the above: the sizes of a workgroup and of its arrays.
override LANES: u32 = 64;
override WEIGHTS: u32 = 256; // STEP * LANES_O * BLOCKS
override PATCHES: u32 = 256; // STEP * LANES_P * 2

struct Shape {
    in_height: u32,
    in_width: u32,
    out_width: u32,
    out_pixels: u32,
    depth: u32,         // input channels * KERNEL * KERNEL
    steps: u32,         // depth / STEP, rounded up
    out_channels: u32,
    first_pixel: u32,   // of this window
    parts: u32,         // pixel tiles in all windows
    first_part: u32,    // of this window
}

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> x: array<f32>;
// [k][o / 4], zero beyond depth and beyond the channels, up to whole steps and tiles.
@group(0) @binding(2) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(0) @binding(5) var<storage, read_write> moments: array<vec4<f32>>; // [channel][part]: count, mean, 0, m2

var<workgroup> weights: array<vec4<f32>, WEIGHTS>; // [step][block, lane]
var<workgroup> patches: array<vec4<f32>, PATCHES>; // [step][half, lane]: four of its eight pixels

// Mirrors positions beside the edge, which itself is not repeated: -1 -> 1, n -> n - 2.
fn reflect_at(position: vec4<i32>, n: i32) -> vec4<u32> {
    let p = abs(position);
    return vec4<u32>(min(p, vec4<i32>(2 * (n - 1)) - p));
}

// Four pixels of patch row k; `top` and `left` are where their patches begin.
fn patch_row(k: u32, top: vec4<i32>, left: vec4<i32>) -> vec4<f32> {
    let channel = k / (KERNEL * KERNEL);
    let tap = k % (KERNEL * KERNEL);
    let rows = reflect_at(top + i32(tap / KERNEL), i32(shape.in_height * UPSAMPLE)) / UPSAMPLE;
    let columns = reflect_at(left + i32(tap % KERNEL), i32(shape.in_width * UPSAMPLE)) / UPSAMPLE;
    let at = (channel * shape.in_height + rows) * shape.in_width + columns;
    return vec4<f32>(x[at.x], x[at.y], x[at.z], x[at.w]);
}

// Where the patches of these pixels begin, in rows or columns of the upsampled input.
fn begin(position: vec4<u32>) -> vec4<i32> {
    return vec4<i32>(position * STRIDE) - i32(KERNEL / 2u);
}

// NaN stays NaN (`max` may drop it), told by its bits (drivers may assume that there is none): a spoiled picture must
// not look like a black one.
fn relu(v: vec4<f32>) -> vec4<f32> {
    let nan = (bitcast<vec4<u32>>(v) & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x7f800000u);
    return select(max(v, vec4<f32>(0.0)), v, nan);
}

fn store(channel: u32, pixel: u32, sum: vec4<f32>) {
    if (pixel < shape.out_pixels) {
        var value = sum;
        if (RELU == 1u) { value = relu(sum); }
        let at = channel * shape.out_pixels + pixel;
        if (channel < shape.out_channels) { y[at] = value.x; }
        if (channel + 1u < shape.out_channels) { y[at + shape.out_pixels] = value.y; }
        if (channel + 2u < shape.out_channels) { y[at + 2u * shape.out_pixels] = value.z; }
        if (channel + 3u < shape.out_channels) { y[at + 3u * shape.out_pixels] = value.w; }
    }
}

// Moments of four channels.
struct Moments {
    count: f32,
    mean: vec4<f32>,
    m2: vec4<f32>, // sum of squared distances from the mean
}

// Of a lane's eight pixels, as far as `p` and `q` are 1.
fn of_lane(
    s0: vec4<f32>, s1: vec4<f32>, s2: vec4<f32>, s3: vec4<f32>,
    s4: vec4<f32>, s5: vec4<f32>, s6: vec4<f32>, s7: vec4<f32>,
    p: vec4<f32>, q: vec4<f32>,
) -> Moments {
    let n = dot(p, vec4<f32>(1.0)) + dot(q, vec4<f32>(1.0));
    let sum = (s0 * p.x + s1 * p.y) + (s2 * p.z + s3 * p.w) + (s4 * q.x + s5 * q.y) + (s6 * q.z + s7 * q.w);
    let mean = sum / max(n, 1.0);
    let d0 = s0 - mean; let d1 = s1 - mean; let d2 = s2 - mean; let d3 = s3 - mean;
    let d4 = s4 - mean; let d5 = s5 - mean; let d6 = s6 - mean; let d7 = s7 - mean;
    let m2 = (d0 * d0 * p.x + d1 * d1 * p.y) + (d2 * d2 * p.z + d3 * d3 * p.w)
        + (d4 * d4 * q.x + d5 * d5 * q.y) + (d6 * d6 * q.z + d7 * d7 * q.w);
    return Moments(n, mean, m2);
}

// m2, or NaN where moments that are merged with others may overflow: the norm would take an infinite variance for a flat
// plane, and paint that. (Of 2^28 pixels with means of 1e14 and tiles with m2 of 1e30 the sums stay below 1e37.)
fn held(mean: f32, m2: f32) -> f32 {
    let bits = bitcast<u32>(m2);
    return bitcast<f32>(select(bits | 0x7fc00000u, bits, abs(mean) < 1e14 && m2 < 1e30));
}

// Merges the moments of the lanes that have the same channels (Chan, Golub, LeVeque) and writes them. All lanes call it.
fn write_moments(own: Moments, lane: u32, lane_p: u32, channel: u32, part: u32) {
    patches[lane] = own.mean;
    patches[LANES + lane] = own.m2;
    patches[2u * LANES + lane] = vec4<f32>(own.count);
    for (var half = LANES_P / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane_p < half) {
            let other = lane + half;
            let n = patches[2u * LANES + lane].x;
            let m = patches[2u * LANES + other].x;
            let share = m / max(n + m, 1.0);
            let delta = patches[other] - patches[lane];
            patches[lane] += delta * share;
            patches[LANES + lane] += patches[LANES + other] + delta * delta * (n * share);
            patches[2u * LANES + lane] = vec4<f32>(n + m);
        }
    }
    workgroupBarrier();
    if (lane_p < 4u && channel + lane_p < shape.out_channels) {
        let first = lane - lane_p;
        let mean = patches[first][lane_p];
        let m2 = patches[LANES + first][lane_p];
        moments[(channel + lane_p) * shape.parts + part] =
            vec4<f32>(patches[2u * LANES + first].x, mean, 0.0, held(mean, m2));
    }
    workgroupBarrier(); // the arrays may be written again
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let lane_p = lane % LANES_P;
    let lane_o = lane / LANES_P;
    let row = LANES_O * BLOCKS; // of the weights' tile, in vec4
    let first_block = group.y * row;
    let stored_row = groups.y * row;

    let pixel = vec4<u32>(shape.first_pixel + group.x * LANES_P * 8u + lane_p) + vec4<u32>(0u, 1u, 2u, 3u) * LANES_P;
    let more = pixel + LANES_P * 4u;
    // Lanes beyond the last pixel compute it again, and store nothing.
    let p = min(pixel, vec4<u32>(shape.out_pixels - 1u));
    let q = min(more, vec4<u32>(shape.out_pixels - 1u));
    let top_p = begin(p / shape.out_width);
    let left_p = begin(p % shape.out_width);
    let top_q = begin(q / shape.out_width);
    let left_q = begin(q % shape.out_width);

    // a: the first four channels, b: the other four.
    var a0 = bias[first_block + lane_o];
    var a1 = a0;
    var a2 = a0;
    var a3 = a0;
    var a4 = a0;
    var a5 = a0;
    var a6 = a0;
    var a7 = a0;
    var b0 = vec4<f32>(0.0);
    if (BLOCKS == 2u) { b0 = bias[first_block + LANES_O + lane_o]; }
    var b1 = b0;
    var b2 = b0;
    var b3 = b0;
    var b4 = b0;
    var b5 = b0;
    var b6 = b0;
    var b7 = b0;

    for (var step = 0u; step < shape.steps; step++) {
        let first_k = step * STEP;
        for (var i = lane; i < STEP * row; i += LANES) {
            weights[i] = weight[(first_k + i / row) * stored_row + first_block + i % row];
        }
        for (var i = lane_o; i < STEP; i += LANES_O) {
            // Beyond depth the weights are zero; the patch must be finite, so it repeats its last row.
            let k = min(first_k + i, shape.depth - 1u);
            patches[i * 2u * LANES_P + lane_p] = patch_row(k, top_p, left_p);
            patches[(i * 2u + 1u) * LANES_P + lane_p] = patch_row(k, top_q, left_q);
        }
        workgroupBarrier();

        for (var k = 0u; k < STEP; k++) {
            let u = patches[k * 2u * LANES_P + lane_p];
            let v = patches[(k * 2u + 1u) * LANES_P + lane_p];
            let w = weights[k * row + lane_o];
            a0 += w * u.x;
            a1 += w * u.y;
            a2 += w * u.z;
            a3 += w * u.w;
            a4 += w * v.x;
            a5 += w * v.y;
            a6 += w * v.z;
            a7 += w * v.w;
            if (BLOCKS == 2u) {
                let z = weights[k * row + LANES_O + lane_o];
                b0 += z * u.x;
                b1 += z * u.y;
                b2 += z * u.z;
                b3 += z * u.w;
                b4 += z * v.x;
                b5 += z * v.y;
                b6 += z * v.z;
                b7 += z * v.w;
            }
        }
        workgroupBarrier();
    }

    let channel = (first_block + lane_o) * 4u;
    if (STATISTICS == 1u) {
        let part = shape.first_part + group.x;
        let within = vec4<f32>(pixel < vec4<u32>(shape.out_pixels));
        let more_within = vec4<f32>(more < vec4<u32>(shape.out_pixels));
        write_moments(of_lane(a0, a1, a2, a3, a4, a5, a6, a7, within, more_within), lane, lane_p, channel, part);
        if (BLOCKS == 2u) {
            let own = of_lane(b0, b1, b2, b3, b4, b5, b6, b7, within, more_within);
            write_moments(own, lane, lane_p, channel + LANES_O * 4u, part);
        }
    }
    store(channel, pixel.x, a0);
    store(channel, pixel.y, a1);
    store(channel, pixel.z, a2);
    store(channel, pixel.w, a3);
    store(channel, more.x, a4);
    store(channel, more.y, a5);
    store(channel, more.z, a6);
    store(channel, more.w, a7);
    if (BLOCKS == 2u) {
        let other = channel + LANES_O * 4u;
        store(other, pixel.x, b0);
        store(other, pixel.y, b1);
        store(other, pixel.z, b2);
        store(other, pixel.w, b3);
        store(other, more.x, b4);
        store(other, more.y, b5);
        store(other, more.z, b6);
        store(other, more.w, b7);
    }
}
