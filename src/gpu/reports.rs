//! A browser tells later what went wrong. Groups of calls are numbered, and tensors know which groups made them, so that
//! an error reaches whoever reads what it spoiled, and nobody else.
//!
//! An object that could not be made is not noticed until it is used: using it fails in turn. So a tensor is spoiled only
//! if the submission that wrote it failed, or one that wrote what was read there.

use crate::RunError;
use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
};
use wasm_bindgen_futures::spawn_local;

/// Errors that are remembered, for tensors still to be read.
const FAULTS_MAX: usize = 1024;

/// Numbers of groups of calls.
pub(crate) type Span = Range<u64>;

/// The groups asked about on one device.
#[derive(Clone, Default)]
pub(crate) struct Reports(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// The number of the next group.
    next: u64,
    /// Groups without an answer yet, ascending.
    open: VecDeque<u64>,
    faults: VecDeque<(u64, RunError)>,
    /// How many there have been.
    faulted: u64,
    waiting: Vec<Waker>,
}

impl State {
    fn answer(&mut self, group: u64, fault: Option<RunError>) {
        self.open.retain(|open| *open != group);
        if let Some(fault) = fault {
            log::error!("wgnorm: {fault}");
            self.faulted += 1;
            if self.faults.len() == FAULTS_MAX {
                self.faults.pop_front();
            }
            self.faults.push_back((group, fault));
        }
        self.waiting.drain(..).for_each(Waker::wake);
    }
}

impl Reports {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the next group.
    pub fn next(&self) -> u64 {
        self.state().next
    }

    /// Numbers a group, about which there will be an answer.
    pub fn expect(&self, answer: impl Future<Output = Option<RunError>> + 'static) {
        let mut state = self.state();
        let group = state.next;
        state.next += 1;
        state.open.push_back(group);
        let reports = self.clone();
        spawn_local(async move {
            let fault = answer.await;
            reports.state().answer(group, fault);
        });
    }

    /// How many errors there have been: caches made before the latest of them may hold what is invalid.
    pub fn faulted(&self) -> u64 {
        self.state().faulted
    }

    /// The first error in these groups, of those that are known.
    pub fn fault(&self, span: &Span) -> Option<RunError> {
        let state = self.state();
        let faults = state.faults.iter().filter(|(group, _)| span.contains(group));
        faults.min_by_key(|(group, _)| *group).map(|(_, fault)| fault.clone())
    }

    /// Whether there may be errors in these groups still to come.
    pub fn is_open(&self, span: &Span) -> bool {
        self.state().open.front().is_some_and(|first| *first < span.end) && !span.is_empty()
    }

    /// Waits until all is known of these groups.
    pub async fn known(&self, span: &Span) {
        poll_fn(|context| {
            let mut state = self.state();
            match state.open.front() {
                Some(first) if *first < span.end => {
                    state.waiting.push(context.waker().clone());
                    Poll::Pending
                }
                _ => Poll::Ready(()),
            }
        })
        .await;
    }
}
