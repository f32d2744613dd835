//! Several operands of calls in one of the application's buffers, at one place and then at another.
#![cfg(feature = "gpu")]

mod common;

use common::device::{self, buffer, encoder};
use wgnorm::{
    Activation, Affine, Context, Error, Extras, GroupSums, InstanceNorm1d, LayerNorm, Mode,
    NormLayer, OperandError, Statistics, Tensor,
};

struct Arena {
    context: Context,
    queue: wgpu::Queue,
    buffer: wgpu::Buffer,
}

impl Arena {
    /// Sevens.
    fn new() -> Option<Arena> {
        let (device, queue) = device::foreign(|_| ())?;
        let context = Context::from_device(&device, &queue).unwrap();
        let arena = Arena { context, queue, buffer: buffer(&device, 2048) };
        arena.write(0, &[7.0; 512]);
        Some(arena)
    }

    fn write(&self, offset: u64, values: &[f32]) {
        self.queue.write_buffer(&self.buffer, offset, bytemuck::cast_slice(values));
    }

    fn view(&self, offset: u64, shape: &[usize]) -> Tensor<'static> {
        Tensor::from_buffer(&self.context, self.buffer.clone(), offset, shape).unwrap()
    }

    fn place(&self, shape: &[usize], values: &[f32]) -> Tensor<'static> {
        Tensor::from_slice(shape, values).unwrap().to_context(&self.context).unwrap()
    }

    /// Whether all but these elements are as they were.
    fn is_whole_but(&self, offset: u64, len: usize) -> bool {
        let first = offset as usize / 4;
        let all = read(&self.view(0, &[512]));
        all.iter().enumerate().all(|(i, v)| *v == 7.0 || (first..first + len).contains(&i))
    }
}

fn read(tensor: &Tensor<'_>) -> Vec<f32> {
    tensor.to_vec_blocking().unwrap()
}

/// A call that was prepared for one place is not taken for another.
#[test]
fn statistics_and_sums_are_read_where_they_lie() {
    let Some(arena) = Arena::new() else { return };
    let context = &arena.context;
    let norm = InstanceNorm1d::config(1).with_eps(0.0).init(context).unwrap();
    let x = arena.place(&[1, 1, 4], &[1.0, 2.0, 3.0, 4.0]);
    // Counts, means, and Σ(x − mean)².
    arena.write(0, &[4.0, 0.0, 0.0, 4.0]);
    arena.write(256, &[4.0, 100.0, 0.0, 4.0]);
    let statistics = |at| Statistics::from_tensor(arena.view(at, &[1, 4])).unwrap();
    let mut y = Tensor::zeros(context, [1, 1, 4]).unwrap();
    for (at, want) in [(0, [1.0, 2.0, 3.0, 4.0]), (256, [-99.0, -98.0, -97.0, -96.0])] {
        let given = statistics(at);
        let extras = Extras::new().with_statistics(&given);
        norm.forward_into(context, &x, &extras, Mode::Eval, &mut y).unwrap();
        assert_eq!(read(&y), want, "statistics at {at}");
    }
    arena.write(512, &[4.0, 20.0, 0.0, 4.0]);
    let means = [256, 512].map(|at| {
        let merged = statistics(0).merge(context, &statistics(at)).unwrap();
        let entry = read(merged.tensor());
        entry[1] + entry[2]
    });
    assert_eq!(means, [50.0, 10.0]);

    let (_, saved) = norm.forward_saved(context, &x, Mode::Train).unwrap();
    let dy = arena.place(&[1, 1, 4], &[1.0; 4]);
    let dx = [0.0, 400.0].map(|sum| {
        let at = 1024 + 256 * u64::from(sum > 0.0);
        arena.write(at, &[4.0, sum, 0.0, 0.0]);
        let sums = GroupSums::from_tensor(arena.view(at, &[1, 4])).unwrap();
        read(&norm.backward_with_sums(context, &saved, &dy, &sums).unwrap().dx)
    });
    assert!(dx[0][0] > 0.0 && dx[1][0] < 0.0, "{dx:?}");

    // Where it was refused before a call that was not, it is refused behind it.
    for at in [4, 0, 4] {
        let given = statistics(at);
        let extras = Extras::new().with_statistics(&given);
        let result = norm.forward_with(context, &x, &extras, Mode::Eval).map(drop);
        let refused = matches!(result, Err(Error::Operand(OperandError::Misaligned { .. })));
        assert_eq!(refused, at == 4, "{result:?}");
    }
}

/// Gradients go where the application wants them, or nowhere.
#[test]
fn gradients_are_written_where_they_lie() {
    let Some(arena) = Arena::new() else { return };
    let context = &arena.context;
    let norm = InstanceNorm1d::config(2).with_affine(Affine::Both).init(context).unwrap();
    let x = arena.place(&[1, 2, 4], &[1.0, 2.0, 3.0, 5.0, 1.0, 0.0, 2.0, 2.0]);
    let dy = arena.place(&[1, 2, 4], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 9.0]);
    let nine = arena.place(&[1, 2, 4], &[9.0; 8]);
    let extras = Extras::new().with_addend(&nine).with_activation(Activation::Silu);
    let (_, saved) = norm.forward_saved_with(context, &x, &extras, Mode::Train).unwrap();
    let want = norm.backward(context, &saved, &dy).unwrap();
    let wanted = [&want.dx, want.dweight.as_ref().unwrap(), want.dbias.as_ref().unwrap()];
    let wanted = wanted.into_iter().chain(&want.daddend).map(read).collect::<Vec<_>>();
    for (which, name) in ["dx", "dweight", "dbias", "daddend"].into_iter().enumerate() {
        for at in [0, 256, 512, 8, 260] {
            arena.write(0, &[7.0; 512]);
            let mut grads = norm.backward(context, &saved, &dy).unwrap();
            let shape: &[usize] = if matches!(which, 0 | 3) { &[1, 2, 4] } else { &[2] };
            let view = arena.view(at, shape);
            match which {
                0 => grads.dx = view.clone(),
                1 => grads.dweight = Some(view.clone()),
                2 => grads.dbias = Some(view.clone()),
                _ => grads.daddend = Some(view.clone()),
            }
            match norm.backward_into(context, &saved, &dy, &mut grads) {
                Ok(()) => {
                    assert_eq!(read(&view), wanted[which], "{name} at {at}");
                    assert!(arena.is_whole_but(at, wanted[which].len()), "{name} at {at}");
                }
                Err(Error::Operand(OperandError::Misaligned { operand, offset, .. })) => {
                    assert!(which > 0 && at % 256 != 0, "{name} at {at}");
                    assert_eq!((operand, offset), (name, at));
                    assert!(arena.is_whole_but(0, 0));
                }
                Err(other) => panic!("{name} at {at}: {other}"),
            }
        }
    }
}

/// What is written shares its buffer with nothing else.
#[test]
fn what_is_written_is_apart() {
    let Some(arena) = Arena::new() else { return };
    let context = &arena.context;
    let norm = InstanceNorm1d::config(2).with_affine(Affine::Both).init(context).unwrap();
    let x = arena.view(1024, &[1, 2, 4]);
    let dy = arena.place(&[1, 2, 4], &[1.0; 8]);
    let (_, saved) = norm.forward_saved(context, &x, Mode::Train).unwrap();
    let parameter = |at| Some(arena.view(at, &[2]));
    for (dweight, dbias) in [(parameter(0), parameter(0)), (parameter(0), None)] {
        let mut grads = norm.backward(context, &saved, &dy).unwrap();
        grads.dweight = dweight;
        grads.dbias = dbias.or(grads.dbias);
        let error = norm.backward_into(context, &saved, &dy, &mut grads).unwrap_err();
        let shared = matches!(error, Error::Operand(OperandError::SharedBuffer { .. }));
        assert!(shared && !error.to_string().contains("scratch"), "{error}");
        assert!(arena.is_whole_but(0, 0));
    }
    // Another layer's statistics are that layer's.
    let tracking = InstanceNorm1d::config(4).with_track_running_stats(true).init(context).unwrap();
    let layer = LayerNorm::config([4]).init(context).unwrap();
    let four = arena.place(&[4], &[1.0, 2.0, 3.0, 4.0]);
    let mean = tracking.running_mean().unwrap();
    let mut commands = encoder(context.device().unwrap());
    let recorded = layer.record(context, &mut commands, &four, &mean, &Extras::new(), Mode::Eval);
    let refused = OperandError::SharedBuffer { operand: "running statistics" };
    assert_eq!(recorded, Err(refused.into()));
    arena.queue.submit([commands.finish()]);
    assert_eq!(read(&mean), [0.0; 4]);
}
