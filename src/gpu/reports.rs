//! A browser tells later what went wrong. Groups of calls are numbered, and tensors know which groups made them, so that
//! an error reaches whoever reads what it spoiled, and nobody else.
//!
//! An object that could not be made is not noticed until it is used: using it fails in turn. So a tensor is spoiled only
//! if the submission that wrote it failed, or one that wrote what was read there.

use crate::RunError;
use smallvec::SmallVec;
use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
};
use wasm_bindgen_futures::spawn_local;

/// Runs of errors that are remembered, for tensors still to be read.
const FAULTS_MAX: usize = 1024;

/// Numbers of groups of calls, one after the other.
pub(crate) type Span = Range<u64>;

/// Groups of calls that something depends on, ascending and apart.
#[derive(Clone, Default)]
pub(crate) struct Spans(SmallVec<[Span; 2]>);

impl Spans {
    pub fn add(&mut self, span: Span) {
        if span.is_empty() {
            return;
        }
        let at = self.0.partition_point(|other| other.end < span.start);
        let Some(other) = self.0.get_mut(at).filter(|other| other.start <= span.end) else {
            return self.0.insert(at, span);
        };
        *other = other.start.min(span.start)..other.end.max(span.end);
        // It may reach the next ones now.
        while at + 1 < self.0.len() && self.0[at + 1].start <= self.0[at].end {
            let next = self.0.remove(at + 1);
            self.0[at].end = self.0[at].end.max(next.end);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Span> {
        self.0.iter()
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&Span) -> bool) {
        self.0.retain(|span| keep(span));
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl From<Span> for Spans {
    fn from(span: Span) -> Self {
        let mut spans = Spans::default();
        spans.add(span);
        spans
    }
}

/// The groups asked about on one device.
#[derive(Clone, Default)]
pub(crate) struct Reports(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// The number of the next group.
    next: u64,
    /// Groups without an answer yet, ascending.
    open: VecDeque<u64>,
    /// Of groups one after another the first error, which those that follow are mostly of.
    faults: VecDeque<(Span, RunError)>,
    /// How many there have been.
    faulted: u64,
    /// Who waits for all groups before this one.
    waiting: Vec<(u64, Waker)>,
}

impl State {
    fn answer(&mut self, group: u64, fault: Option<RunError>) {
        if let Some(fault) = fault {
            log::error!("wgnorm: {fault}");
            self.faulted += 1;
            match self.faults.back_mut() {
                Some((span, _)) if span.end == group => span.end += 1,
                _ => {
                    if self.faults.len() == FAULTS_MAX {
                        self.faults.pop_front();
                    }
                    self.faults.push_back((group..group + 1, fault));
                }
            }
        }
        // Answers come in order, as far as anybody has seen.
        if let Ok(at) = self.open.binary_search(&group) {
            self.open.remove(at);
            if at == 0 {
                let open = self.open.front().copied().unwrap_or(u64::MAX);
                self.waiting.extract_if(.., |(end, _)| *end <= open).for_each(|(_, w)| w.wake());
            }
        }
    }

    fn is_open(&self, span: &Span) -> bool {
        self.open.front().is_some_and(|first| *first < span.end) && !span.is_empty()
    }

    fn fault<'a>(&self, spans: impl Iterator<Item = &'a Span>) -> Option<RunError> {
        let reaches = |span: &Span| {
            let mut faults = self.faults.iter();
            faults.find(|(of, _)| of.start < span.end && span.start < of.end)
        };
        let first = spans.filter_map(reaches).min_by_key(|(of, _)| of.start);
        first.map(|(_, fault)| fault.clone())
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
    pub fn fault<'a>(&self, spans: impl Iterator<Item = &'a Span>) -> Option<RunError> {
        self.state().fault(spans)
    }

    /// Whether there may be errors in these groups still to come.
    pub fn is_open(&self, span: &Span) -> bool {
        self.state().is_open(span)
    }

    /// Whether there is, or may yet be, an error in these groups.
    pub fn is_doubtful(&self, span: &Span) -> bool {
        let state = self.state();
        state.is_open(span) || state.fault([span].into_iter()).is_some()
    }

    /// Waits until all is known of the groups before this one.
    pub async fn known(&self, end: u64) {
        poll_fn(|context| {
            let mut state = self.state();
            match state.open.front() {
                Some(first) if *first < end => {
                    state.waiting.push((end, context.waker().clone()));
                    Poll::Pending
                }
                _ => Poll::Ready(()),
            }
        })
        .await;
    }
}
