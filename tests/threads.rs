//! Many threads at once: the bits of one thread, updates whole and in some order, nobody waits for ever.
#![cfg(not(target_arch = "wasm32"))]

mod common;

use common::{device, random};
use rayon::prelude::*;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;
use wgnorm::{
    Affine, Backend, BatchNorm1d, BatchNorm2d, Context, Error, GroupNorm, InstanceNorm2d,
    LayerNorm, LazyBatchNorm1d, Mode, Momentum, NormLayer, StateDict, StateValue, Tensor,
};

/// What `work` returns, if it does before it must be a deadlock.
fn within<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, done) = mpsc::channel();
    std::thread::spawn(move || sender.send(work()));
    match done.recv_timeout(Duration::from_secs(120)) {
        Ok(value) => value,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{what}: a deadlock"),
        Err(mpsc::RecvTimeoutError::Disconnected) => panic!("{what}: failed, see above"),
    }
}

/// Shapes that run in registers, in slices and, on the host, on several threads.
const SHAPES: [[usize; 4]; 4] = [[2, 4, 7, 9], [1, 4, 40, 40], [3, 4, 90, 90], [2, 4, 16, 1]];

fn input(context: &Context, shape: [usize; 4], seed: u32) -> Tensor<'static> {
    let values = random::gauss4(shape.iter().product(), seed, 2.0, 1.0);
    Tensor::from_vec(shape, values).unwrap().to_context(context).unwrap()
}

/// Layers as an application shares them.
struct Net {
    instance: InstanceNorm2d,
    group: GroupNorm,
    batch: BatchNorm2d,
    layer: OnceLock<LayerNorm>,
}

impl Net {
    fn new(context: &Context) -> Self {
        let mut instance =
            InstanceNorm2d::config(4).with_affine(Affine::Both).init(context).unwrap();
        instance.set_weight(&Tensor::from_slice([4], &[0.5, -1.0, 2.0, 3.0]).unwrap()).unwrap();
        Net {
            instance,
            group: GroupNorm::config(2, 4).init(context).unwrap(),
            batch: BatchNorm2d::config(4).init(context).unwrap(),
            layer: OnceLock::new(),
        }
    }

    /// The bits of all that one input gives, gradients too; nothing is written that others read.
    fn bits(&self, context: &Context, x: &Tensor<'static>) -> Result<Vec<u32>, Error> {
        let layer = self.layer.get_or_init(|| LayerNorm::config([1]).init(context).unwrap());
        let mut bits = Vec::new();
        let mut keep = |tensor: &Tensor<'_>| {
            bits.extend(tensor.to_vec_blocking()?.into_iter().map(f32::to_bits));
            Ok::<_, Error>(())
        };
        let (y, saved) = self.instance.forward_saved(context, x, Mode::Train)?;
        keep(&y)?;
        let grads = self.instance.backward(context, &saved, &y)?;
        keep(&grads.dx)?;
        keep(grads.dweight.as_ref().expect("it has a weight"))?;
        keep(&self.batch.forward(context, &y, Mode::Eval)?)?;
        let mut place = self.group.forward(context, &y, Mode::Eval)?;
        self.group.forward_in_place(context, &mut place, &wgnorm::Extras::new(), Mode::Eval)?;
        keep(&place)?;
        if x.shape()[3] == 1 {
            keep(&layer.forward(context, x, Mode::Eval)?)?;
        }
        Ok(bits)
    }
}

/// Contexts, layers and tensors shared by threads give the bits that one thread gets, while others let go of what is
/// kept for reuse.
#[test]
fn many_threads_get_the_bits_of_one() {
    for device in device::all() {
        within(device.name, move || {
            let context = device.context;
            let net = Net::new(&context);
            let inputs: Vec<_> =
                SHAPES.iter().zip(1..).map(|(shape, seed)| input(&context, *shape, seed)).collect();
            let want: Vec<_> = inputs.iter().map(|x| net.bits(&context, x).unwrap()).collect();
            // Another context on the same device, whose first calls all come at once.
            let fresh = Net::new(&context);
            let rounds = if context.backend() == Backend::Gpu { 6 } else { 40 };
            std::thread::scope(|scope| {
                for thread in 0..6 {
                    let (net, fresh, context, inputs, want) =
                        (&net, &fresh, context.clone(), &inputs, &want);
                    scope.spawn(move || {
                        for round in 0..rounds {
                            let which = (thread + round) % inputs.len();
                            let net = if round % 2 == 0 { fresh } else { net };
                            // A tensor of this thread's, or everybody's.
                            let own = input(&context, SHAPES[which], 1 + which as u32);
                            let x = if thread % 2 == 0 { &own } else { &inputs[which] };
                            let got = net.bits(&context, x).unwrap();
                            assert!(got == want[which], "{context}, {:?}", SHAPES[which]);
                            if thread == 0 {
                                context.trim();
                                net.instance.trim();
                            }
                        }
                    });
                }
            });
        });
    }
}

/// Threads that open a context each, on the same driver.
#[test]
fn every_thread_may_have_a_context_of_its_own() {
    within("contexts", || {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                std::thread::spawn(|| {
                    device::all()
                        .into_iter()
                        .map(|device| {
                            let (context, shape) = (device.context, SHAPES[0]);
                            Net::new(&context).bits(&context, &input(&context, shape, 3)).unwrap()
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let bits: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(bits.windows(2).all(|pair| pair[0] == pair[1]));
    });
}

/// A batch whose means and unbiased variances are these, exactly.
fn batch(context: &Context, mean: f32, var: f32) -> Tensor<'static> {
    let spread = (var * 0.75).sqrt();
    let half = [mean - spread, mean + spread];
    // Two channels: the second one's mean is the first's, negative.
    let values = [half, half].concat().into_iter().flat_map(|v| [v, -v]).collect::<Vec<f32>>();
    Tensor::from_vec([4, 2], values).unwrap().to_context(context).unwrap()
}

fn orders(steps: &[usize]) -> Vec<Vec<usize>> {
    if steps.is_empty() {
        return vec![Vec::new()];
    }
    let first = |at: usize| {
        let mut rest = steps.to_vec();
        let first = rest.remove(at);
        orders(&rest).into_iter().map(move |order| [vec![first], order].concat())
    };
    (0..steps.len()).flat_map(first).collect()
}

/// Training from many threads is training in some order: each update is whole.
#[test]
fn training_from_many_threads_has_an_order() {
    for device in device::all() {
        within(device.name, move || {
            let context = device.context;
            // Exact in f32 whatever the order; spreads of 1.5, 3, 6, … are, too.
            let steps: Vec<(f32, f32)> =
                (0..6).map(|i| ((1 << (2 * i)) as f32, 3.0 * (1 << (2 * i)) as f32)).collect();
            let batches: Vec<_> =
                steps.iter().map(|&(mean, var)| batch(&context, mean, var)).collect();
            let all = orders(&[0, 1, 2, 3, 4, 5]);
            let after = |order: &Vec<usize>| {
                order.iter().fold((0.0, 1.0), |(mean, var), &step| {
                    let (batch_mean, batch_var) = steps[step];
                    (0.5 * mean + 0.5 * batch_mean, 0.5 * var + 0.5 * batch_var)
                })
            };
            for _ in 0..20 {
                let norm = BatchNorm1d::config(2).with_momentum(Momentum::Factor(0.5));
                let norm = norm.init(&context).unwrap();
                let started = AtomicUsize::new(0);
                std::thread::scope(|scope| {
                    for pair in batches.chunks(2) {
                        let (norm, context, started) = (&norm, &context, &started);
                        scope.spawn(move || {
                            started.fetch_add(1, Ordering::SeqCst);
                            while started.load(Ordering::SeqCst) < 3 {
                                std::hint::spin_loop();
                            }
                            for x in pair {
                                norm.forward(context, x, Mode::Train).unwrap();
                            }
                        });
                    }
                });
                let mean = norm.running_mean().unwrap().to_vec_blocking().unwrap();
                let var = norm.running_var().unwrap().to_vec_blocking().unwrap();
                assert_eq!((mean[1], var[1]), (-mean[0], var[0]), "an update was torn");
                let known = all.iter().map(after).any(|of_order| of_order == (mean[0], var[0]));
                assert!(known, "{context}: {mean:?} {var:?} is of no order");
                assert_eq!(norm.num_batches_tracked_blocking().unwrap(), 6);
            }
        });
    }
}

/// A state that is read while others train is that between two steps.
#[test]
fn a_state_read_while_training_is_whole() {
    const STEPS: i32 = 20; // beyond 24 the means would be rounded
    for device in device::all() {
        within(device.name, move || {
            let context = device.context;
            let x = batch(&context, 1.0, 3.0);
            for _ in 0..10 {
                let norm = BatchNorm1d::config(2).with_momentum(Momentum::Factor(0.5));
                let norm = norm.init(&context).unwrap();
                let done = AtomicBool::new(false);
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        for _ in 0..STEPS {
                            norm.forward(&context, &x, Mode::Train).unwrap();
                        }
                        done.store(true, Ordering::SeqCst);
                    });
                    loop {
                        let last = done.load(Ordering::SeqCst);
                        assert_whole(&norm.state_dict_blocking().unwrap(), &context);
                        if last {
                            break;
                        }
                    }
                });
                assert_eq!(norm.num_batches_tracked_blocking().unwrap(), STEPS as u64);
            }
        });
    }
}

fn assert_whole(state: &StateDict, context: &Context) {
    let values = |name| match state.get(name) {
        Some(StateValue::Tensor(tensor)) => tensor.to_vec_blocking().unwrap(),
        other => panic!("{name}: {other:?}"),
    };
    let Some(StateValue::Count(count)) = state.get("num_batches_tracked") else {
        panic!("a count")
    };
    let count = *count as i32;
    let rest = 0.5f32.powi(count);
    let (mean, var) = (1.0 - rest, 3.0 - 2.0 * rest);
    assert_eq!(values("running_mean"), [mean, -mean], "{context}, after {count} steps");
    assert_eq!(values("running_var"), [var; 2], "{context}, after {count} steps");
}

/// Tasks of the application's pool of threads share a layer: no lock is held where a thread could take up another task.
#[test]
fn tasks_of_a_shared_pool_do_not_wait_for_themselves() {
    within("a pool", || {
        let context = Context::host();
        let norm = BatchNorm2d::config(4).init(&context).unwrap();
        // Large enough for the calls to make tasks of their own.
        let x = input(&context, [2, 4, 200, 200], 5);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        pool.install(|| {
            (0..64).into_par_iter().for_each(|i| {
                let mode = if i % 3 == 0 { Mode::Eval } else { Mode::Train };
                norm.forward(&context, &x, mode).unwrap();
            });
        });
        assert_eq!(norm.num_batches_tracked_blocking().unwrap(), 42);
    });
}

/// Of first calls that come at once with other numbers of channels one makes a lazy layer, and those that fit it work.
#[test]
fn one_of_the_first_calls_makes_a_lazy_layer() {
    for device in device::all() {
        within(device.name, move || {
            let context = device.context;
            for _ in 0..20 {
                let lazy = LazyBatchNorm1d::new(BatchNorm1d::config(0), &context).unwrap();
                let start = std::sync::Barrier::new(4);
                let run = |channels: usize| {
                    let x = Tensor::from_vec([2, channels], vec![1.0; 2 * channels]).unwrap();
                    let x = x.to_context(&context).unwrap();
                    start.wait();
                    lazy.forward(&context, &x, Mode::Train).is_ok()
                };
                let worked: Vec<bool> = std::thread::scope(|scope| {
                    let run = &run;
                    let threads: Vec<_> =
                        (0..4).map(|i| scope.spawn(move || run(1 + i % 2))).collect();
                    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
                });
                let layer = lazy.layer().unwrap();
                let first = layer.settings().num_features == 1;
                assert_eq!(worked, [first, !first, first, !first], "{context}");
                assert_eq!(layer.num_batches_tracked_blocking().unwrap(), 2);
            }
        });
    }
}

/// An observer may use the layer's context, and a layer like it.
#[test]
fn observers_may_call() {
    for device in device::all() {
        within(device.name, move || {
            let context = device.context;
            let inner = InstanceNorm2d::config(4).init(&context).unwrap();
            let mut norm = InstanceNorm2d::config(4).init(&context).unwrap();
            let (seen, observing) = (Arc::new(AtomicUsize::new(0)), context.clone());
            let count = seen.clone();
            norm.set_observer(move |x: &Tensor<'_>, y: &Tensor<'_>| {
                let again = inner.forward(&observing, x, Mode::Eval).unwrap();
                assert_eq!(again.to_vec_blocking().unwrap(), y.to_vec_blocking().unwrap());
                observing.trim();
                count.fetch_add(1, Ordering::SeqCst);
            });
            norm.forward(&context, &input(&context, SHAPES[0], 1), Mode::Eval).unwrap();
            assert_eq!(seen.load(Ordering::SeqCst), 1);
        });
    }
}

#[cfg(feature = "gpu")]
mod callbacks {
    use super::*;
    use std::task::{Poll, Wake, Waker};

    /// Whatever a caller's callback does with the context that it was called from below, it is not waited for.
    fn use_all(context: &Context, norm: &InstanceNorm2d) {
        let x = Tensor::from_vec(SHAPES[1], vec![1.0; 4 * 40 * 40]).unwrap();
        let y = x.to_context(context).and_then(|x| norm.forward(context, &x, Mode::Eval));
        // A callback must not wait for what it is called from: that is wgpu's rule.
        drop(y);
        norm.trim();
        context.trim();
    }

    fn shared(context: &Context) -> Arc<(Context, InstanceNorm2d)> {
        Arc::new((context.clone(), InstanceNorm2d::config(4).init(context).unwrap()))
    }

    /// What the application hears of work that is done, on our device and on its own, from below any of our calls.
    #[test]
    fn gpu_callbacks_of_done_work_may_call() {
        let Some(ours) = device::gpu() else { return };
        let (device, queue) = device::foreign(|_| ()).unwrap();
        for context in [ours, Context::from_device(&device, &queue).unwrap()] {
            within("work done", move || {
                let both = shared(&context);
                let x = input(&context, SHAPES[0], 1);
                let extras = wgnorm::Extras::new();
                type Call<'a> = &'a dyn Fn(&Context, &InstanceNorm2d) -> Result<(), Error>;
                let calls: [Call<'_>; 7] = [
                    &|_, _| x.to_vec_blocking().map(drop),
                    &|context, _| Tensor::zeros(context, [5]).map(drop),
                    &|context, _| Tensor::from_slice([1], &[0.0])?.to_context(context).map(drop),
                    &|context, norm| norm.forward(context, &x, Mode::Eval).map(drop),
                    &|context, norm| norm.statistics(context, &x, None).map(drop),
                    &|context, norm| {
                        let (y, saved) = norm.forward_saved(context, &x, Mode::Eval)?;
                        norm.backward(context, &saved, &y).map(drop)
                    },
                    &|context, norm| {
                        let mut y = norm.forward(context, &x, Mode::Eval)?;
                        norm.forward_in_place(context, &mut y, &extras, Mode::Eval)
                    },
                ];
                for call in calls {
                    let (sender, called) = mpsc::channel();
                    let again = both.clone();
                    context.device().unwrap().poll(wgpu::PollType::wait_indefinitely()).unwrap();
                    context.queue().unwrap().on_submitted_work_done(move || {
                        use_all(&again.0, &again.1);
                        sender.send(()).unwrap();
                    });
                    call(&context, &both.1).unwrap();
                    // Of a device of ours it has been called by now.
                    context.device().unwrap().poll(wgpu::PollType::wait_indefinitely()).unwrap();
                    called.recv_timeout(Duration::from_secs(10)).expect("called");
                }
            });
        }
    }

    /// The loss of the application's device, told while we poll it.
    #[test]
    fn gpu_callbacks_of_losses_may_call() {
        let Some((device, queue)) = device::foreign(|_| ()) else { return };
        within("a loss", move || {
            let context = Context::from_device(&device, &queue).unwrap();
            let (both, (sender, called)) = (shared(&context), mpsc::channel());
            let calling = both.clone();
            device.set_device_lost_callback(move |_, _| {
                use_all(&calling.0, &calling.1);
                sender.send(()).unwrap();
            });
            let x = input(&context, SHAPES[0], 1);
            let y = both.1.forward(&context, &x, Mode::Eval).unwrap();
            device.destroy();
            assert!(y.to_vec_blocking().is_err());
            let _ = device.poll(wgpu::PollType::wait_indefinitely());
            called.recv_timeout(Duration::from_secs(10)).expect("called");
        });
    }

    /// An executor that is woken may go on at once.
    #[test]
    fn gpu_wakers_may_call() {
        struct Waking(Arc<(Context, InstanceNorm2d)>, AtomicBool);
        impl Wake for Waking {
            fn wake(self: Arc<Self>) {
                use_all(&self.0.0, &self.0.1);
                self.1.store(true, Ordering::SeqCst);
            }
        }
        let Some(context) = device::gpu() else { return };
        within("a waker", move || {
            let both = shared(&context);
            let waking = Arc::new(Waking(both.clone(), AtomicBool::new(false)));
            let waker = Waker::from(waking.clone());
            let x = input(&context, SHAPES[0], 1);
            let reading = x.to_vec();
            let mut reading = std::pin::pin!(reading);
            let mut task = std::task::Context::from_waker(&waker);
            let mut waited = false;
            while reading.as_mut().poll(&mut task) == Poll::Pending {
                waited = true;
                std::thread::sleep(Duration::from_millis(1));
            }
            // The thread that polls wakes a moment after it has answered.
            while waited && !waking.1.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
    }
}
