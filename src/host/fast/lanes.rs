//! Arithmetic on f32 in vector registers, compiled for several sets of instructions, one of which is
//! picked at run time. All loops over elements are here; what they compute is given as small types, whose
//! methods are `inline(always)`: only what ends up in one function is compiled for its instructions. In wasm all
//! functions have the same, so that the larger ones are left to the compiler, for the module's size.

use crate::Element;
use pulp::Simd;

/// Elements whose f32 form stays in a core's first cache.
pub(super) const TILE: usize = 1 << 9;
/// The most lanes that there are.
pub(super) const LANES_MAX: usize = 16;
/// A tile, and room behind it for lanes that reach beyond its end.
pub(super) type Tile = [f32; TILE + LANES_MAX];
pub(super) const EMPTY_TILE: Tile = [0.0; TILE + LANES_MAX];

/// Elements of rows that are worked on together: they stay in a core's first cache.
pub(super) const BATCH: usize = 1 << 12;
/// As [`Tile`].
pub(super) type BatchTile = [f32; BATCH + LANES_MAX];

/// A function: a constant of this size would be copied.
#[inline(always)]
pub(super) fn empty_batch() -> BatchTile {
    [0.0; BATCH + LANES_MAX]
}

/// Tiles to work in: made once for many runs, since clearing them takes as long as a short run.
pub(super) struct Scratch {
    pub x: Tile,
    pub z: Tile,
}

impl Scratch {
    pub const EMPTY: Scratch = Scratch { x: EMPTY_TILE, z: EMPTY_TILE };
}

/// Work to be compiled for several sets of instructions. `run` and what it calls must be
/// `inline(always)`.
pub(super) trait Work {
    type Output;

    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Runs `work` with the widest vectors that this processor has.
#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
pub(super) fn vectorized<W: Work>(work: W) -> W::Output {
    struct Op<W>(W);
    impl<W: Work> pulp::WithSimd for Op<W> {
        type Output = W::Output;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> W::Output {
            self.0.run(simd)
        }
    }
    pulp::Arch::new().dispatch(Op(work))
}

/// Runs `work` with the vectors that this module is compiled for: asked at run time, it would bring loops without
/// them along, too.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
#[allow(unsafe_code)]
pub(super) fn vectorized<W: Work>(work: W) -> W::Output {
    // SAFETY: it runs nowhere else.
    work.run(unsafe { pulp::wasm::Simd128::new_unchecked() })
}

/// `len` values, and all that lie behind them: where lanes reach beyond the end, what they read there is
/// put aside, which costs less than reading one by one.
#[derive(Clone, Copy)]
pub(super) struct Values<'a> {
    from: &'a [f32],
    len: usize,
}

impl<'a> Values<'a> {
    #[inline(always)]
    pub fn new(from: &'a [f32], len: usize) -> Self {
        Values { from, len }
    }

    #[inline(always)]
    pub fn whole<S: Simd>(&self) -> &'a [S::f32s] {
        bytemuck::cast_slice(&self.from[..self.len - self.len % S::F32_LANES])
    }

    /// What is left behind whole registers, and `fill`.
    #[inline(always)]
    pub fn rest<S: Simd>(&self, simd: S, fill: f32) -> S::f32s {
        self.rest_of(simd, self.len % S::F32_LANES, fill)
    }

    /// The last `left`, and `fill`.
    #[inline(always)]
    fn rest_of<S: Simd>(&self, simd: S, left: usize, fill: f32) -> S::f32s {
        let from = &self.from[self.len - left..];
        let fill = simd.splat_f32s(fill);
        if let Some(from) = from.get(..S::F32_LANES) {
            let lanes: S::f32s = bytemuck::cast_slice(from)[0];
            let index: S::u32s = bytemuck::cast_slice(&INDEX[..S::U32_LANES])[0];
            let within = simd.less_than_u32s(index, simd.splat_u32s(left as u32));
            return simd.select_f32s(within, lanes, fill);
        }
        let mut lanes = [fill];
        bytemuck::cast_slice_mut(&mut lanes)[..left].copy_from_slice(&from[..left]);
        lanes[0]
    }
}

const INDEX: [u32; LANES_MAX] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// What is summed of `N` values: added to `K` sums.
pub(super) trait Terms<const N: usize, const K: usize> {
    fn add<S: Simd>(&self, simd: S, values: [S::f32s; N], sums: [S::f32s; K]) -> [S::f32s; K];
}

/// Registers that are summed side by side, so that an addition need not wait for the one before.
const CHAINS: usize = 4;

/// `K` sums over as many values of each of their terms, in f32. In lanes behind the last value stands
/// `fill`, of which the terms must be zeros.
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
pub(super) fn sums<S: Simd, const N: usize, const K: usize>(
    simd: S,
    values: [Values<'_>; N],
    fill: [f32; N],
    terms: &impl Terms<N, K>,
) -> [f32; K] {
    let zero = simd.splat_f32s(0.0);
    let mut chains = [[zero; K]; CHAINS];
    let mut now = [zero; N];
    let len = values[0].len;
    let whole = len / S::F32_LANES;
    let mut registers: [&[S::f32s]; N] = [&[]; N];
    for n in 0..N {
        registers[n] = &values[n].whole::<S>()[..whole];
    }
    let mut at = 0;
    while at + CHAINS <= whole {
        for (c, chain) in chains.iter_mut().enumerate() {
            for n in 0..N {
                now[n] = registers[n][at + c];
            }
            *chain = terms.add(simd, now, *chain);
        }
        at += CHAINS;
    }
    while at < whole {
        for n in 0..N {
            now[n] = registers[n][at];
        }
        chains[0] = terms.add(simd, now, chains[0]);
        at += 1;
    }
    if !len.is_multiple_of(S::F32_LANES) {
        for n in 0..N {
            now[n] = values[n].rest(simd, fill[n]);
        }
        chains[1] = terms.add(simd, now, chains[1]);
    }
    let mut sums = [0.0; K];
    for k in 0..K {
        let even = simd.add_f32s(chains[0][k], chains[2][k]);
        let odd = simd.add_f32s(chains[1][k], chains[3][k]);
        sums[k] = simd.reduce_sum_f32s(simd.add_f32s(even, odd));
    }
    sums
}

/// What becomes of a value and of those of `K` tables.
pub(super) trait Map<const K: usize> {
    /// How many of the tables, the first ones, are as long as x and as far from a cache.
    const AS_X: usize = 0;

    fn of<S: Simd>(&self, simd: S, x: S::f32s, tables: [S::f32s; K]) -> S::f32s;
}

/// As it is.
pub(super) struct Itself;

impl Map<0> for Itself {
    #[inline(always)]
    fn of<S: Simd>(&self, _: S, x: S::f32s, _: [S::f32s; 0]) -> S::f32s {
        x
    }
}

/// Where `len` results go: the first of `y`, the rest of which is not written yet and may be overrun.
pub(super) struct Sink<'y> {
    pub y: &'y mut [f32],
    pub len: usize,
    /// Past the caches.
    pub stream: bool,
    /// How many elements behind x lies what will be read next, if that is worth fetching meanwhile.
    pub ahead: usize,
}

/// Whether there are stores past the caches.
pub(super) const PAST_CACHES: bool = cfg!(target_arch = "x86_64");
/// Bytes of a cache line.
const LINE: usize = 64;

/// How many elements come before a cache line begins.
#[inline(always)]
pub(super) fn to_line<T>(y: &[T]) -> usize {
    y.as_ptr().align_offset(LINE)
}

impl Sink<'_> {
    /// Fills it with what becomes of values of `x` and of `K` tables.
    #[cfg_attr(not(target_arch = "wasm32"), inline(always))]
    pub fn fill<S: Simd, const K: usize, M: Map<K>>(
        self,
        simd: S,
        x: &[f32],
        tables: [&[f32]; K],
        map: &M,
    ) {
        let Sink { y, len, stream, ahead } = self;
        let stream = PAST_CACHES && stream;
        // Streams begin at a cache line.
        let head = if stream { to_line(y).min(len) } else { 0 };
        let mut start = 0;
        while start < head {
            let some = S::F32_LANES.min(head - start);
            let mut at = [simd.splat_f32s(0.0); K];
            for k in 0..K {
                at[k] = Values::new(&tables[k][start..], some).rest_of(simd, some, 0.0);
            }
            let z = map.of(simd, Values::new(&x[start..], some).rest_of(simd, some, 0.0), at);
            y[start..start + some].copy_from_slice(&bytemuck::cast_slice(&[z])[..some]);
            start += some;
        }
        let (y, len) = (&mut y[head..], len - head);
        let x = Values::new(&x[head..], len);
        let xs = x.whole::<S>();
        let (ys, rest) = y.split_at_mut(xs.len() * S::F32_LANES);
        let ys = &mut bytemuck::cast_slice_mut::<f32, S::f32s>(ys)[..xs.len()];
        let mut rows = [Values::new(&[], 0); K];
        let mut columns: [&[S::f32s]; K] = [&[]; K];
        for k in 0..K {
            rows[k] = Values::new(&tables[k][head..], len);
            columns[k] = &rows[k].whole::<S>()[..xs.len()];
        }
        let mut at = [simd.splat_f32s(0.0); K];
        for c in 0..xs.len() {
            if ahead > 0 {
                prefetch((&raw const xs[c]).cast::<f32>().wrapping_add(ahead));
                for column in &columns[..M::AS_X] {
                    prefetch((&raw const column[c]).cast::<f32>().wrapping_add(ahead));
                }
            }
            for k in 0..K {
                at[k] = columns[k][c];
            }
            let z = map.of(simd, xs[c], at);
            match stream {
                true => store_past_caches(&mut ys[c], z),
                false => ys[c] = z,
            }
        }
        let left = len % S::F32_LANES;
        if left > 0 {
            for k in 0..K {
                at[k] = rows[k].rest(simd, 0.0);
            }
            let z = map.of(simd, x.rest(simd, 0.0), at);
            match rest.get_mut(..S::F32_LANES) {
                Some(y) => bytemuck::cast_slice_mut(y)[0] = z,
                None => rest[..left].copy_from_slice(&bytemuck::cast_slice(&[z])[..left]),
            }
        }
    }
}

/// Stores without first reading the cache lines: a third of a copy's traffic. `y` is aligned to its size.
#[inline(always)]
#[allow(unsafe_code)] // streaming stores have no safe form
fn store_past_caches<V: bytemuck::Pod>(y: &mut V, value: V) {
    #[cfg(target_arch = "x86_64")]
    if size_of::<V>() >= 16 {
        use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};
        let (to, from) = ((&raw mut *y).cast::<__m128i>(), (&raw const value).cast::<__m128i>());
        assert!(to.is_aligned());
        for i in 0..size_of::<V>() / 16 {
            // SAFETY: both have that many blocks of 16 bytes, and `to` is aligned.
            unsafe { _mm_stream_si128(to.add(i), _mm_loadu_si128(from.add(i))) }
        }
        return;
    }
    *y = value;
}

#[inline(always)]
#[allow(unsafe_code)]
fn prefetch<V>(at: *const V) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Fetches `len` values `ahead` of `from`, if they are there.
#[inline(always)]
pub(super) fn prefetch_all<T>(from: &[T], ahead: usize, len: usize) {
    let from = from.as_ptr().wrapping_add(ahead);
    for start in (0..len).step_by(LINE / size_of::<T>()) {
        prefetch(from.wrapping_add(start));
    }
}

/// Makes streamed stores visible to other threads before what this thread does next.
#[inline(always)]
#[allow(unsafe_code)]
pub(super) fn finish_stream() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: always there on x86-64.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// The slice itself, if it is of f32.
#[inline(always)]
pub(super) fn as_f32<T: Element>(values: &[T]) -> Option<&[f32]> {
    (T::DTYPE == crate::DType::F32).then(|| bytemuck::cast_slice(values))
}

/// As [`as_f32`].
#[inline(always)]
pub(super) fn as_f32_mut<T: Element>(values: &mut [T]) -> Option<&mut [f32]> {
    (T::DTYPE == crate::DType::F32).then(|| bytemuck::cast_slice_mut(values))
}

/// At least the first `count` values; those that are not f32 in `tile`.
#[inline(always)]
pub(super) fn widened<'t, T: Element>(
    values: &'t [T],
    count: usize,
    tile: &'t mut BatchTile,
) -> &'t [f32] {
    match as_f32(values) {
        Some(values) => values,
        None => {
            T::to_f32s(&values[..count], &mut tile[..count]);
            tile
        }
    }
}

/// Where f32 results for `y` are written first: y itself, if it is f32 and not streamed.
#[inline(always)]
pub(super) fn target<'t, T: Element>(
    y: &'t mut [T],
    stream: bool,
    tile: &'t mut BatchTile,
) -> &'t mut [f32] {
    match as_f32_mut(y) {
        Some(y) if !stream => y,
        _ => tile,
    }
}

/// The first `count` results from a tile to `y`, if they are not there already, see [`target`].
#[inline(always)]
pub(super) fn put<T: Element, S: Simd>(
    simd: S,
    tile: &BatchTile,
    y: &mut [T],
    count: usize,
    stream: bool,
) {
    match as_f32_mut(&mut *y) {
        Some(y) if stream => Sink { y, len: count, stream, ahead: 0 }.fill(simd, tile, [], &Itself),
        Some(_) => {}
        None => T::from_f32s(&tile[..count], &mut y[..count]),
    }
}

/// The first `len` values of two tiles, as registers, the last of which may hold more.
#[inline(always)]
pub(super) fn registers<'t, S: Simd>(
    from: &'t Tile,
    to: &'t mut Tile,
    len: usize,
) -> impl Iterator<Item = (&'t S::f32s, &'t mut S::f32s)> {
    let len = len.next_multiple_of(S::F32_LANES);
    let from = bytemuck::cast_slice(&from[..len]).iter();
    from.zip(bytemuck::cast_slice_mut(&mut to[..len]))
}

/// Elements as f32, at the start of a tile.
#[inline(always)]
pub(super) fn widen<T: Element>(values: &[T], tile: &mut Tile) {
    T::to_f32s(values, &mut tile[..values.len()]);
}

/// As many f32 as elements.
#[inline(always)]
pub(super) fn narrow<T: Element>(from: &[f32], values: &mut [T]) {
    T::from_f32s(&from[..values.len()], values);
}
