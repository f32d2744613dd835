//! Which of the plans of a call is the fastest on this device.

use super::Gpu;
use super::encode::{Call, Job, Operands};
use super::memory::GpuData;
use super::readback::poll_until_done;
use crate::Error;
use crate::plan::{Caps, Operand, Plan, Tuning};
use std::time::{Duration, Instant};

/// Rounds in which every plan is measured once; the shortest time of each counts, since nothing but other
/// work makes a time longer.
const ROUNDS: usize = 5;
/// What one measurement takes at least: a hundred times what submitting and waiting costs.
const MEASURED: Duration = Duration::from_millis(5);
const REPEATS_MAX: u32 = 512;
/// After this long no further round is begun: of calls that take seconds, one must do.
const ENOUGH: Duration = Duration::from_secs(2);
/// Plans slower than the best by more than this in the first round are not measured again.
const HOPELESS: f64 = 1.5;
/// A plan must be faster than the planner's by this, or what was measured may be noise.
const GAIN: f64 = 1.05;

/// A plan ready to run.
struct Candidate {
    tuning: Tuning,
    call: Call,
    /// The shortest that some number of runs took.
    best: Duration,
}

impl Gpu {
    /// The fastest of the plans that differ, and nanoseconds with the planner's own and with it; `None`
    /// if there is only one, or another call is just measured.
    pub fn measure(
        &self,
        job: &Job,
        operands: &Operands<'_>,
    ) -> Result<Option<(Tuning, [u64; 2])>, Error> {
        let plans = self.plans(job, operands)?;
        let Some(_alone) = self.tuner.begin().filter(|_| plans.len() > 1) else { return Ok(None) };
        let sandbox = Sandbox::new(self, operands, &plans)?;
        let operands = sandbox.operands(operands);
        let mut candidates = Vec::new();
        for (tuning, plan) in &plans {
            let call = self.prepare(plan, &operands, job.element())?;
            self.time(&call, 1)?; // pipelines compiled, memory touched
            candidates.push(Candidate { tuning: *tuning, call, best: Duration::MAX });
        }
        let repeats = self.race(&mut candidates)?;
        let nanos = |candidate: &Candidate| (candidate.best / repeats).as_nanos() as u64;
        let planned = nanos(&candidates[0]);
        let fastest = candidates.iter().min_by_key(|candidate| candidate.best);
        let (tuning, tuned) = fastest
            .map(|fastest| (fastest.tuning, nanos(fastest)))
            .filter(|(_, tuned)| *tuned as f64 * GAIN < planned as f64)
            .unwrap_or((Tuning::Planned, planned));
        Ok(Some((tuning, [planned, tuned])))
    }

    /// The plans that differ, the planner's own first.
    fn plans(&self, job: &Job, operands: &Operands<'_>) -> Result<Vec<(Tuning, Plan)>, Error> {
        let offsets = operands.offsets();
        let plan = |tuning| job.plan(&Caps { tuning, ..self.caps() }, &offsets);
        let mut plans = vec![(Tuning::Planned, plan(Tuning::Planned)?)];
        for tuning in Tuning::ALL {
            // Another plan may need more of a limit than the planner's own.
            if let Ok(plan) = plan(tuning)
                && plans.iter().all(|(_, other)| *other != plan)
            {
                plans.push((tuning, plan));
            }
        }
        Ok(plans)
    }

    /// Times the candidates in turns, and says how many runs a time is of.
    fn race(&self, candidates: &mut Vec<Candidate>) -> Result<u32, Error> {
        let mut repeats = 1;
        while repeats < REPEATS_MAX && self.time(&candidates[0].call, repeats)? < MEASURED {
            repeats *= 2;
        }
        let started = Instant::now();
        for round in 0..ROUNDS {
            if round > 0 && started.elapsed() > ENOUGH {
                break;
            }
            for Candidate { call, best, .. } in &mut *candidates {
                *best = self.time(call, repeats)?.min(*best);
            }
            if round == 0 {
                let best = candidates.iter().map(|candidate| candidate.best).min();
                let limit = best.unwrap_or_default().mul_f64(HOPELESS);
                let is_planned = |tuning| tuning == Tuning::Planned;
                candidates.retain(|one| is_planned(one.tuning) || one.best < limit);
            }
        }
        Ok(repeats)
    }

    /// From submission to completion.
    fn time(&self, call: &Call, repeats: u32) -> Result<Duration, Error> {
        let started = Instant::now();
        let submission = self.submit("tuning", |encoder| {
            (0..repeats).for_each(|_| call.record(encoder));
            Ok(())
        })?;
        poll_until_done(self.device.wgpu(), submission)?;
        Ok(started.elapsed())
    }
}

/// Memory of our own in place of all that a call writes: tuning leaves no trace.
struct Sandbox {
    written: Vec<(Operand, GpuData)>,
    running: Option<[GpuData; 2]>,
}

impl Sandbox {
    fn new(gpu: &Gpu, operands: &Operands<'_>, plans: &[(Tuning, Plan)]) -> Result<Sandbox, Error> {
        let stages = plans.iter().flat_map(|(_, plan)| &plan.stages);
        let bound = stages.flat_map(|stage| stage.kernel.bindings().iter().zip(&stage.operands));
        let mut written: Vec<(Operand, GpuData)> = Vec::new();
        for (_, &operand) in bound.filter(|((_, written), _)| *written) {
            if let Some(data) = operands.get(operand)
                && written.iter().all(|(other, _)| *other != operand)
            {
                written.push((operand, data.alike(gpu.caps.offset_alignment)?));
            }
        }
        let alike = |data: &GpuData| data.alike(gpu.caps.offset_alignment);
        let running = match operands.running {
            Some((stats, steps)) => Some([alike(stats)?, alike(steps)?]),
            None => None,
        };
        Ok(Sandbox { written, running })
    }

    fn operands<'a, 'b: 'a>(&'a self, given: &Operands<'b>) -> Operands<'a> {
        let mut operands = Operands::default();
        for (operand, data) in given.iter() {
            let ours = self.written.iter().find(|(written, _)| *written == operand);
            operands.add(operand, ours.map_or(data, |(_, data)| data));
        }
        operands.running = self.running.as_ref().map(|[stats, steps]| (stats, steps));
        operands
    }
}
