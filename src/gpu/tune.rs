//! What is known of the fastest plans of calls on this device: measured here ([`super::measure`]), or
//! brought along.

use super::Gpu;
use super::encode::{Job, Operands};
use crate::plan::{Caps, Offsets, Plan, TunedCall, Tuning, Tunings};
use crate::{Error, TuningError};
use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// Calls remembered: an application that changes its sizes all the time must not grow.
const CALLS_MAX: usize = 4096;

/// A call's name: all that its plan depends on, limits and the cache's size included.
type Name = String;

#[derive(Default)]
pub(crate) struct Tuner {
    on: AtomicBool,
    calls: Mutex<BTreeMap<Name, TunedCall>>,
    /// Held while measuring: who comes meanwhile would be in its times, and it in theirs.
    measuring: Mutex<()>,
}

impl Gpu {
    pub fn set_autotune(&self, on: bool) {
        self.tuner.on.store(on, Ordering::Relaxed);
    }

    pub fn tunings(&self) -> Tunings {
        let calls = self.tuner.calls().values().cloned().collect();
        Tunings { made_by: made_by(), device: self.identity(), calls }
    }

    pub fn set_tunings(&self, tunings: &Tunings) -> Result<(), TuningError> {
        for (expected, got) in [(made_by(), &tunings.made_by), (self.identity(), &tunings.device)] {
            if expected != *got {
                return Err(TuningError { expected, got: got.clone() });
            }
        }
        let calls = tunings.calls.iter().take(CALLS_MAX);
        *self.tuner.calls() = calls.map(|call| (call.call.clone(), call.clone())).collect();
        Ok(())
    }

    /// Of the hardware and what drives it: another driver compiles other code.
    fn identity(&self) -> String {
        let info = self.device.wgpu().adapter_info();
        format!("{:?}, {}, {}, {}", info.backend, info.name, info.driver, info.driver_info)
    }

    /// The plan of a call, the fastest one if that is known or can be found out.
    pub fn plan(&self, job: &Job, operands: &Operands<'_>) -> Result<Plan, Error> {
        let offsets = operands.offsets();
        // What is written in a measurement is memory of our own, so there x cannot be in it.
        let tuning = match self.tuner.is_in_use() && !offsets.shared {
            true => self.tuning(job, operands, self.name(job, &offsets)),
            false => Tuning::Planned,
        };
        let plan = |tuning| job.plan(&Caps { tuning, ..self.caps() }, &offsets);
        // What was brought along may be made up, and need more of a limit.
        Ok(plan(tuning).or_else(|_| plan(Tuning::Planned))?)
    }

    fn name(&self, job: &Job, offsets: &Offsets) -> Name {
        let by_four = 4 * job.element();
        let Offsets { x, y, addend, dy, .. } = *offsets;
        let aligned = [x, y, addend, dy].map(|offset| offset.is_multiple_of(by_four));
        format!("{job:?}, aligned: {aligned:?}, on {:?}", self.caps())
    }

    fn tuning(&self, job: &Job, operands: &Operands<'_>, name: Name) -> Tuning {
        if let Some(call) = self.tuner.calls().get(&name) {
            return call.tuning;
        }
        if !self.tuner.on.load(Ordering::Relaxed) {
            return Tuning::Planned;
        }
        // Not under the lock of what is known.
        match self.measure(job, operands) {
            Ok(Some((tuning, [planned_ns, tuned_ns]))) => {
                let call = TunedCall { call: name.clone(), tuning, planned_ns, tuned_ns };
                let mut calls = self.tuner.calls();
                while calls.len() >= CALLS_MAX {
                    calls.pop_first();
                }
                calls.insert(name, call);
                tuning
            }
            Ok(None) => Tuning::Planned,
            // What fails here is told by the call itself, if it fails there too.
            Err(error) => {
                log::warn!("wgnorm: a call was not tuned: {error}");
                Tuning::Planned
            }
        }
    }
}

impl Tuner {
    fn calls(&self) -> MutexGuard<'_, BTreeMap<Name, TunedCall>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_in_use(&self) -> bool {
        self.on.load(Ordering::Relaxed) || !self.calls().is_empty()
    }

    /// `None` while another call is measured. Not waited for: it could be one further up this very stack,
    /// from a callback of the application's that polling the device has called.
    pub fn begin(&self) -> Option<MutexGuard<'_, ()>> {
        match self.measuring.try_lock() {
            Ok(guard) => Some(guard),
            Err(std::sync::TryLockError::Poisoned(error)) => Some(error.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }
}

fn made_by() -> String {
    format!("wgnorm {}", env!("CARGO_PKG_VERSION"))
}
