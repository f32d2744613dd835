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
    last_loss: Option<RunError>,
}

impl<T: Portable> Resilient<T> {
    /// Opens a context by `options` and builds on it what is to last.
    ///
    /// # Errors
    /// [`OpenError`](crate::OpenError) as of [`Context::open_with`], and what `build` returns.
    pub async fn open(
        options: ContextOptions,
        on_loss: OnLoss,
        build: impl FnOnce(&Context) -> Result<T, Error>,
    ) -> Result<Self, Error> {
        let context = Context::open_with(&options).await?;
        let value = build(&context)?;
        let state = value.save().await?;
        Ok(Resilient { options, on_loss, context, value, state, last_loss: None })
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
        loop {
            let done = work(&self.context, &self.value).await;
            let changed = self.value.is_changed_by_calls();
            if let Some(answer) = self.keep(done, changed, &mut reopened).await {
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
        loop {
            let done = change(&mut self.value);
            if let Some(answer) = self.keep(done, true, &mut reopened).await {
                return answer;
            }
        }
    }

    /// Keeps the values of now with what was done, or goes on and has it done again: then there is no answer yet.
    async fn keep<R>(
        &mut self,
        done: Result<R, Error>,
        changed: bool,
        reopened: &mut bool,
    ) -> Option<Result<R, Error>> {
        let error = match done {
            Err(error) if is_loss(&error) => error,
            done if !changed => return Some(done),
            // Of work that failed in another way, too: its values are those of now.
            done => match self.value.save().await {
                Ok(state) => {
                    self.state = state;
                    return Some(done);
                }
                Err(error) => error,
            },
        };
        self.go_on(error, reopened).await.err().map(Err)
    }

    /// Takes the values to what comes after a device, or returns the error if that is not a loss, or nothing does.
    async fn go_on(&mut self, error: Error, reopened: &mut bool) -> Result<(), Error> {
        let mut error = error;
        loop {
            let Error::Run(loss) = &error else { return Err(error) };
            if !is_loss(&error) || self.context.backend() == Backend::Host {
                return Err(error);
            }
            let lost = matches!(loss, RunError::DeviceLost { .. });
            let host = self.on_loss == OnLoss::Host || self.options.preference != Preference::Gpu;
            let context = if lost && self.on_loss == OnLoss::Reopen && !*reopened {
                *reopened = true;
                Context::open_with(&self.options).await?
            } else if host {
                Context::host()
            } else {
                return Err(error);
            };
            self.last_loss = Some(loss.clone());
            match self.value.restore(&self.state, &context) {
                Ok(value) => {
                    (self.context, self.value) = (context, value);
                    return Ok(());
                }
                // The new device is lost already.
                Err(next) => error = next,
            }
        }
    }
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
