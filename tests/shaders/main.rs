//! Every shader, as the planner may ask for it, on every kind of driver, with no GPU.
//!
//! naga parses, validates and translates; spirv-val and glslangValidator, where they are installed
//! (or `WGNORM_REQUIRE_TOOLS=1`), check what it wrote. Metal's own compiler exists on Apple's
//! systems only: there, a translation without an error is all that is shown here.
#![cfg(feature = "gpu")]

mod arithmetic;
#[path = "../common/mod.rs"]
mod common;
mod translate;
mod uniformity;
mod variants;

use proptest::{prelude::*, sample};
use std::{
    collections::{BTreeMap, BTreeSet},
    mem::offset_of,
    path::{Path, PathBuf},
    sync::LazyLock,
    thread,
};
use translate::{GLSLANG, GLSLANG_HLSL, SPIRV_VAL, Tool, Translations};
use variants::Variant;
use wgnorm::{
    View,
    plan::{Access, Kernel, Offsets, Overrides, Task},
};

fn parse(source: &str) -> naga::Module {
    naga::front::wgsl::parse_str(source).unwrap_or_else(|e| panic!("{}", e.emit_to_string(source)))
}

/// Each kernel with each element file.
fn modules() -> impl Iterator<Item = (Kernel, Access, naga::Module)> {
    Kernel::ALL.into_iter().flat_map(|kernel| {
        Access::ALL.map(|access| (kernel, access, parse(&kernel.source(access))))
    })
}

/// A variant's name and what naga made of it.
struct Translated {
    name: String,
    entry_point: &'static str,
    text: Translations,
}

/// Translates variants on all cores. Panics if one fails, naming it.
fn translate_all(variants: &[Variant]) -> Vec<Translated> {
    let modules: BTreeMap<_, _> = modules()
        .map(|(kernel, access, module)| {
            let info = translate::validate(&module).expect("a valid module");
            ((kernel, access), (module, info))
        })
        .collect();
    in_parallel(variants, |&(kernel, access, overrides)| {
        let (module, info) = &modules[&(kernel, access)];
        let constants = kernel.constants(&overrides);
        let name = format!("{kernel:?} {access:?} {constants:?}");
        let entry_point = kernel.entry_point();
        let translations = translate::specialize(module, info, entry_point, &constants)
            .and_then(|(module, info)| translate::translate(&module, &info, entry_point));
        match translations {
            Ok(text) => Translated { name, entry_point, text },
            Err(error) => panic!("{name}: {error}"),
        }
    })
}

fn in_parallel<T: Sync, U: Send>(items: &[T], work: impl Fn(&T) -> U + Sync) -> Vec<U> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let chunks = items.chunks(items.len().div_ceil(threads).max(1));
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = chunks
            .map(|chunk| scope.spawn(move || chunk.iter().map(work).collect::<Vec<_>>()))
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Vec<U>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().flat_map(join).collect()
    })
}

/// Has a tool look at one translation of each variant. Returns what it complains about.
fn complaints<'a>(
    tool: &Tool,
    kind: &str,
    translated: &'a [Translated],
    text: impl Fn(&'a Translations) -> &'a [u8] + Sync,
) -> Vec<String> {
    if !tool.is_there() {
        return Vec::new();
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(kind);
    std::fs::create_dir_all(&folder).unwrap();
    let numbered: Vec<(usize, &Translated)> = translated.iter().enumerate().collect();
    let chunks: Vec<_> = numbered.chunks(tool.at_once).collect();
    let complaints = in_parallel(&chunks, |chunk| {
        let write = |&(i, variant): &(usize, &'a Translated)| {
            let file = folder.join(i.to_string());
            std::fs::write(&file, text(&variant.text)).unwrap();
            file
        };
        let files: Vec<_> = chunk.iter().map(write).collect();
        tool.complaint(&files, chunk[0].1.entry_point)?;
        // One of them, or more.
        let of_one = |(file, (_, variant)): (&PathBuf, &(usize, &Translated))| {
            let complaint = tool.complaint(std::slice::from_ref(file), variant.entry_point)?;
            Some(format!("{}: {complaint}", variant.name))
        };
        Some(files.iter().zip(*chunk).filter_map(of_one).collect::<Vec<_>>())
    });
    complaints.into_iter().flatten().flatten().collect()
}

#[track_caller]
fn assert_silent(complaints: Vec<String>) {
    assert!(
        complaints.is_empty(),
        "{} complaints, the first of them:\n{}",
        complaints.len(),
        complaints[0]
    );
}

#[test]
fn every_variant_translates() {
    let translated = translate_all(&variants::representatives());
    println!("{} variants", translated.len());
    assert!(translated.iter().all(|variant| variant.text.msl.contains("kernel void")));
}

#[test]
fn other_tools_accept_the_translations() {
    let translated = translate_all(&variants::selection());
    println!("{} variants", translated.len());
    assert_silent(complaints(&SPIRV_VAL, "spv", &translated, |text| &text.spirv));
    assert_silent(complaints(&GLSLANG, "es.comp", &translated, |t| t.glsl[0].as_bytes()));
    assert_silent(complaints(&GLSLANG, "gl.comp", &translated, |t| t.glsl[1].as_bytes()));
    // glslang reads its own HLSL prelude for each file, which takes it longer than all else here.
    let all = std::env::var_os("WGNORM_ALL_CASES").is_some();
    let some: Vec<_> = translated.into_iter().step_by(if all { 1 } else { 5 }).collect();
    assert_silent(complaints(&GLSLANG_HLSL, "hlsl", &some, |t| t.hlsl.as_bytes()));
}

#[test]
fn the_tools_see_a_wrong_file() {
    let variant = variants::ALL.iter().find(|(kernel, ..)| *kernel == Kernel::CountStep);
    let mut translated = translate_all(&[*variant.expect("one that counts steps")]);
    let text = &mut translated[0].text;
    text.spirv.truncate(text.spirv.len() - 8); // OpReturn, OpFunctionEnd
    text.glsl[0] = text.glsl[0].replace("void main() {", "void main() { undeclared();");
    text.hlsl = text.hlsl.replace("count_step", "count_stop");
    let wrong = |tool: &Tool, kind, text: fn(&Translations) -> &[u8]| {
        assert_eq!(
            complaints(tool, kind, &translated, text).is_empty(),
            !tool.is_there(),
            "{kind}"
        );
    };
    wrong(&SPIRV_VAL, "wrong.spv", |t| &t.spirv);
    wrong(&GLSLANG, "wrong.comp", |t| t.glsl[0].as_bytes());
    wrong(&GLSLANG_HLSL, "wrong.hlsl", |t| t.hlsl.as_bytes());
}

/// At most 4 Mi elements: with the smallest bindings, some thousand dispatches.
fn shapes() -> impl Strategy<Value = [u32; 3]> {
    let lengths = prop_oneof![1u32..300, 1u32..70_000, 1u32..2_000_000];
    (1u32..600, 1u32..40, lengths)
        .prop_map(|(n, c, s)| [n, c.min((1 << 22) / s), s])
        .prop_map(|[n, c, s]| [n.min((1 << 22) / (c * s)), c, s])
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4096) })]

    /// The sweep is fixed; nothing the planner makes of random problems may lie outside it.
    #[test]
    fn random_problems_need_no_variant_beyond_the_sweep(
        shape in shapes(),
        kind in 0..variants::VIEWS,
        dtype in sample::select(&variants::DTYPES),
        flags in 0..variants::FLAGS,
        update in sample::select(&variants::UPDATES),
        lanes in sample::select(&variants::LANES),
        binding_bits in 12u32..28,
        [x, y, addend] in [0u64..4, 0u64..4, 0u64..4],
    ) {
        let problem = variants::problem(variants::view(kind, shape), dtype, flags, update);
        let caps = variants::caps(lanes, 1 << binding_bits);
        let offsets = Offsets { x: x * 4, y: y * 8, addend: addend * 16, ..Offsets::default() };
        let mut needed = BTreeSet::new();
        variants::collect(&problem, &caps, &offsets, &mut needed);
        for variant in &needed {
            prop_assert!(LAYOUTS.contains(&variants::layout(variant)), "layout of {:?}", variant);
            prop_assert!(FLAGS.contains(&variants::flags(variant)), "flags of {:?}", variant);
        }
    }
}

static LAYOUTS: LazyLock<BTreeSet<Variant>> =
    LazyLock::new(|| variants::ALL.iter().map(variants::layout).collect());
static FLAGS: LazyLock<BTreeSet<(Kernel, Overrides)>> =
    LazyLock::new(|| variants::ALL.iter().map(variants::flags).collect());

#[test]
fn no_barrier_is_missed_by_some_lanes() {
    for (kernel, access, module) in modules() {
        let faults = uniformity::faults(&module);
        assert_eq!(faults, [""; 0], "{kernel:?} {access:?}");
    }
}

/// The shaders again, each with one condition made to depend on the lane.
#[test]
fn the_barrier_guard_sees_wrong_shaders() {
    let wrong = |kernel: Kernel, from: &str, to: &str| {
        let source = kernel.source(Access::F32x1);
        assert!(source.contains(from), "{kernel:?} has no {from:?}");
        let module = parse(&source.replace(from, to));
        translate::validate(&module).expect("naga accepts it: that is why there is a guard");
        assert_ne!(uniformity::faults(&module), [""; 0], "{kernel:?} with {to:?}");
    };
    // Returns before a barrier.
    wrong(Kernel::NormRow, "if LANES == 1u {", "if row.lane == 1u {");
    wrong(Kernel::NormRow, "var n = counts", "if row.end == 0u { return; } var n = counts");
    wrong(Kernel::StatsRow, "var all =", "if x[row.lane] == 0.0 { return; } var all =");
    // A barrier under a condition, in a callee; the same behind a local variable.
    let merge = "all = row_merge(row, all);";
    wrong(Kernel::Apply, merge, &format!("if row.lane < 4u {{ {merge} }}"));
    let few = format!("var few = 4u; few += invocation; if few > 4u {{ {merge} }}");
    wrong(Kernel::StatsRow, merge, &few);
    // A loop that lanes leave at different times, or that memory written by others bounds.
    wrong(Kernel::UpdateRunning, "half > 0u;", "half > row.lane;");
    wrong(Kernel::UpdateRunning, "half > 0u;", "half > u32(slots[0].x);");
}

fn guard(body: &str) -> Vec<String> {
    let source = format!(
        "
        @group(0) @binding(0) var<uniform> limit: u32;
        @group(0) @binding(1) var<storage, read> fixed: array<u32>;
        @group(0) @binding(2) var<storage, read_write> moving: array<u32>;
        override WIDE: bool = true;
        fn wait() {{ workgroupBarrier(); }}
        fn is_first(lane: u32) -> bool {{ return lane == 0u; }}
        fn is_even(lane: u32) -> bool {{ if lane % 2u == 0u {{ return true; }} return false; }}
        fn add(to: ptr<function, u32>, lane: u32) {{ *to += lane; }}
        @compute @workgroup_size(64)
        fn main(
            @builtin(local_invocation_index) lane: u32,
            @builtin(workgroup_id) workgroup: vec3<u32>,
        ) {{ {body} }}"
    );
    let module = parse(&source);
    translate::validate(&module).unwrap_or_else(|error| panic!("{body}: {error}"));
    uniformity::faults(&module)
}

#[test]
fn the_barrier_guard_knows_what_varies() {
    for wrong in [
        "if lane < 4u { workgroupBarrier(); }",
        "if lane < 4u { return; } workgroupBarrier();",
        "if lane < 4u { wait(); }",
        "if moving[0] == 1u { wait(); }",
        "if fixed[lane] == 1u { wait(); }",
        "if is_first(lane) { wait(); }",
        "if is_even(lane) { wait(); }",
        "if select(1u, 2u, lane > 3u) == 1u { wait(); }",
        "loop { if lane == 0u { break; } wait(); }",
        "loop { wait(); if lane == 0u { break; } }",
        "loop { wait(); continuing { break if lane == 0u; } }",
        "for (var i = 0u; i < lane; i++) { wait(); }",
        "for (var i = 0u; i < 4u; i++) { if lane == i { continue; } wait(); }",
        "for (var i = 0u; i < 4u; i++) { if lane == i { return; } } wait();",
        "var i = 0u; if lane == 0u { i = 1u; } if i == 0u { wait(); }",
        "var i = 0u; add(&i, lane); if i == 0u { wait(); }",
        "var a = array(1u, 2u); a[lane % 2u] = 0u; if a[0] == 0u { wait(); }",
        "switch lane { case 0u: { wait(); } default: {} }",
    ] {
        assert_ne!(guard(wrong), [""; 0], "{wrong}");
    }
    for right in [
        "workgroupBarrier();",
        "if lane < 4u { moving[lane] = 1u; } wait();",
        "if WIDE { return; } wait();",
        "if limit > 3u { wait(); }",
        "if workgroup.x + fixed[limit] > 3u { wait(); }",
        "if is_first(limit) || is_even(workgroup.x) { wait(); }",
        "for (var i = limit; i > 0u; i /= 2u) { wait(); if lane < i { moving[lane] += 1u; } }",
        "for (var i = 0u; i < 4u; i++) { if limit == i { continue; } if WIDE { break; } wait(); }",
        "for (var i = 0u; i < lane; i++) { moving[lane] += i; } wait();",
        "switch limit { case 0u: { wait(); } default: {} }",
    ] {
        assert_eq!(guard(right), [""; 0], "{right}");
    }
}

/// Rust's and WGSL's idea of the uniform block, byte by byte.
#[test]
fn the_task_has_the_layout_of_its_shader() {
    let want = [
        ("extent", offset_of!(Task, view) + offset_of!(View, extent)),
        ("data", offset_of!(Task, view) + offset_of!(View, data)),
        ("param", offset_of!(Task, view) + offset_of!(View, param)),
        ("stat", offset_of!(Task, view) + offset_of!(View, stat)),
        ("mask", offset_of!(Task, view) + offset_of!(View, mask)),
        ("span", offset_of!(Task, span)),
        ("slicing", offset_of!(Task, slicing)),
        ("base", offset_of!(Task, base)),
        ("param_base", offset_of!(Task, param_base)),
        ("scalars", offset_of!(Task, scalars)),
        ("style", offset_of!(Task, style)),
    ];
    for (kernel, access, module) in modules() {
        let task = module.types.iter().find(|(_, ty)| ty.name.as_deref() == Some("Task"));
        let Some((_, naga::Type { inner: naga::TypeInner::Struct { members, span }, .. })) = task
        else {
            panic!("{kernel:?} {access:?} has no struct Task");
        };
        let got: Vec<_> = members
            .iter()
            .map(|member| (member.name.as_deref().unwrap_or(""), member.offset as usize))
            .collect();
        assert_eq!(got, want, "{kernel:?} {access:?}");
        assert_eq!(*span as usize, size_of::<Task>(), "{kernel:?} {access:?}");
    }
}

/// Workgroup memory as the table gives it and as naga counts it; within WebGPU's 16 KiB.
#[test]
fn workgroup_memory_is_what_the_table_says() {
    for (kernel, access, module) in modules() {
        let info = translate::validate(&module).unwrap();
        for wg in variants::LANES {
            let overrides = Overrides { wg, rows: 1, tile: 1, ..Overrides::default() };
            let constants = kernel.constants(&overrides);
            let entry_point = kernel.entry_point();
            let (module, _) =
                translate::specialize(&module, &info, entry_point, &constants).unwrap();
            let globals = module.global_variables.iter().map(|(_, global)| global);
            let bytes: u32 = globals
                .filter(|global| global.space == naga::AddressSpace::WorkGroup)
                .map(|global| module.types[global.ty].inner.size(module.to_ctx()))
                .sum();
            assert_eq!(bytes, kernel.shared_bytes(wg), "{kernel:?} {access:?} {wg}");
            assert!(bytes <= 16 << 10, "{kernel:?} {access:?} {wg}: {bytes}");
        }
    }
}
