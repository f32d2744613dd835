//! Work that outlives its device.

use crate::layers::Snapshot;
use crate::{Backend, Context, ContextOptions, Error, Preference, RunError};
use std::fmt;
use std::future::Future;

/// What can be taken to another context with values kept on the host: every layer of this crate, and an
/// application's own networks of them.
pub trait Portable: Sized {
    /// The values, on the host.
    type State: Clone;

    /// Copies the values to the host.
    ///
    /// # Errors
    /// [`RunError`] if the device fails.
    fn save(&self) -> impl Future<Output = Result<Self::State, Error>>;

    /// The same on another context, with these values. Nothing of `self` is asked for that lies on its
    /// device, which may be gone.
    ///
    /// # Errors
    /// [`RunError`] if the new device fails.
    fn restore(&self, state: &Self::State, context: &Context) -> Result<Self, Error>;

    /// Whether calls change the values, as training moves running statistics.
    fn is_changed_by_calls(&self) -> bool {
        true
    }
}

/// A layer's values on the host.
#[derive(Clone)]
pub struct LayerState(pub(crate) Snapshot);

/// What goes on when a device is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnLoss {
    /// A device opened anew by the same options. The host if none opens, if the new one is lost in the same call,
    /// or if memory is what a device lacks; except with [`Preference::Gpu`].
    #[default]
    Reopen,
    /// The host.
    Host,
}

/// A layer, or a network of them, that goes on when its device is lost or out of memory: on a device opened
/// anew or on the host, with the values it had. Nothing is lost but time.
///
/// What it costs while all is well: after each call that may have moved running statistics they are copied
/// to the host, and waited for.
///
/// ```
/// use wgnorm::{BatchNorm2d, ContextOptions, Mode, NormLayer, OnLoss, Resilient, Tensor};
///
/// # pollster::block_on(async {
/// let options = ContextOptions::default();
/// let mut norm = Resilient::open(options, OnLoss::Reopen, |context| {
///     BatchNorm2d::config(3).init(context)
/// })
/// .await?;
/// let photo = vec![0.5f32; 3 * 64 * 64];
/// let y = norm
///     .call(async |context, norm| {
///         let x = Tensor::from_slice([1, 3, 64, 64], &photo)?.to_context(context)?;
///         norm.forward(context, &x, Mode::Train)?.to_vec().await
///     })
///     .await?;
/// # assert_eq!(y, vec![0.0; photo.len()]);
/// # Ok::<(), wgnorm::Error>(())
/// # }).unwrap();
/// ```
pub struct Resilient<T: Portable> {
    options: ContextOptions,
    on_loss: OnLoss,
    context: Context,
    value: T,
    state: T::State,
    /// Whether the values may be newer than the state.
    stale: bool,
    last_loss: Option<RunError>,
}

impl<T: Portable> Resilient<T> {
    /// Opens a context by `options` and builds on it what is to last. If the device is lost meanwhile, or has no
    /// memory for it, on what comes next.
    ///
    /// # Errors
    /// [`OpenError`](crate::OpenError) as of [`Context::open_with`], and what `build` returns.
    pub async fn open(
        options: ContextOptions,
        on_loss: OnLoss,
        build: impl Fn(&Context) -> Result<T, Error>,
    ) -> Result<Self, Error> {
        let mut context = Context::open_with(&options).await?;
        let (mut reopened, mut last_loss) = (false, None);
        loop {
            let built = match build(&context) {
                Ok(value) => value.save().await.map(|state| (value, state)),
                Err(error) => Err(error),
            };
            let error = match built {
                Ok((value, state)) => {
                    let stale = false;
                    return Ok(Self { options, on_loss, context, value, state, stale, last_loss });
                }
                Err(error) => error,
            };
            (context, last_loss) =
                next_context(&options, on_loss, &context, error, &mut reopened).await?;
        }
    }

    /// Where the work is done now.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// What is to last, on the context of now.
    pub fn get(&self) -> &T {
        &self.value
    }

    /// What the latest device was lost of.
    pub fn last_loss(&self) -> Option<&RunError> {
        self.last_loss.as_ref()
    }

    /// Does some work, which takes its data from the host and brings its results back there. If the device
    /// is lost or out of memory meanwhile, all of it is done again on what comes next, with the values that
    /// were before; an error of another kind is the answer, and the values are what the work made of them.
    ///
    /// # Errors
    /// What the work returns. A loss, or [`OpenError`](crate::OpenError), only where the options leave nothing
    /// to go on with.
    pub async fn call<R>(
        &mut self,
        work: impl AsyncFn(&Context, &T) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let mut reopened = false;
        self.catch_up(&mut reopened).await?;
        loop {
            self.stale = self.value.is_changed_by_calls();
            let done = work(&self.context, &self.value).await;
            if let Some(answer) = self.keep(done, &mut reopened).await {
                return answer;
            }
        }
    }

    /// Changes what is to last: its parameters, its settings. Done again as a [`call`](Self::call) is.
    ///
    /// # Errors
    /// What `change` returns; otherwise as [`call`](Self::call).
    pub async fn update<R>(
        &mut self,
        change: impl Fn(&mut T) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let mut reopened = false;
        self.catch_up(&mut reopened).await?;
        loop {
            self.stale = true;
            let done = change(&mut self.value);
            if let Some(answer) = self.keep(done, &mut reopened).await {
                return answer;
            }
        }
    }

    /// Saves what a call that was dropped half way has left.
    async fn catch_up(&mut self, reopened: &mut bool) -> Result<(), Error> {
        match self.save().await {
            Ok(()) => Ok(()),
            Err(error) => self.go_on(error, reopened).await,
        }
    }

    /// The values of now, if they may be newer than what is kept.
    async fn save(&mut self) -> Result<(), Error> {
        if self.stale {
            self.state = self.value.save().await?;
            self.stale = false;
        }
        Ok(())
    }

    /// Keeps the values of now with what was done, or goes on and has it done again: then there is no answer yet.
    async fn keep<R>(
        &mut self,
        done: Result<R, Error>,
        reopened: &mut bool,
    ) -> Option<Result<R, Error>> {
        let error = match done {
            Err(error) if is_loss(&error) => error,
            // Of work that failed in another way, too: its values are those of now.
            done => match self.save().await {
                Ok(()) => return Some(done),
                Err(error) => error,
            },
        };
        let answer = self.go_on(error, reopened).await.err()?;
        // Nothing comes next, so the values of now count, if they are there.
        let _ = self.save().await;
        Some(Err(answer))
    }

    /// Takes the values to what comes after a device, or returns the error if that is not a loss, or nothing does.
    async fn go_on(&mut self, mut error: Error, reopened: &mut bool) -> Result<(), Error> {
        loop {
            let (context, loss) =
                next_context(&self.options, self.on_loss, &self.context, error, reopened).await?;
            self.last_loss = loss;
            match self.value.restore(&self.state, &context) {
                Ok(value) => {
                    (self.context, self.value, self.stale) = (context, value, false);
                    return Ok(());
                }
                // The new device is lost already.
                Err(next) => error = next,
            }
        }
    }
}

/// What comes after a context that ended in a loss, and that loss; the error itself if it is none, or nothing comes.
async fn next_context(
    options: &ContextOptions,
    on_loss: OnLoss,
    context: &Context,
    error: Error,
    reopened: &mut bool,
) -> Result<(Context, Option<RunError>), Error> {
    let Error::Run(loss) = &error else { return Err(error) };
    if !is_loss(&error) || context.backend() == Backend::Host {
        return Err(error);
    }
    let is_lost = matches!(loss, RunError::DeviceLost { .. });
    let context = if is_lost && on_loss == OnLoss::Reopen && !*reopened {
        *reopened = true;
        Context::open_with(options).await?
    } else if on_loss == OnLoss::Host || options.preference != Preference::Gpu {
        Context::host()
    } else {
        return Err(error);
    };
    Ok((context, Some(loss.clone())))
}

/// Whether another device, or the host, may do what this one did not.
fn is_loss(error: &Error) -> bool {
    matches!(error, Error::Run(RunError::DeviceLost { .. } | RunError::OutOfMemory { .. }))
}

impl<T: Portable> fmt::Debug for Resilient<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let loss = &self.last_loss;
        f.debug_struct("Resilient")
            .field("context", &self.context)
            .field("last_loss", loss)
            .finish()
    }
}
