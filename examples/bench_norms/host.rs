//! The host path.

use crate::answer::{self, Answer};
use crate::calls::{Calls, Data};
use crate::cases::Case;
use crate::{Device, Failure, Ready, copy};
use std::time::Instant;
use wgnorm::Context;

pub struct Host {
    context: Context,
}

impl Host {
    /// With so many threads, of rayon's global pool.
    pub fn new(threads: usize) -> Result<Host, Failure> {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
        Ok(Host { context: Context::host() })
    }
}

impl Device for Host {
    fn name(&self) -> String {
        format!("host-{}t", rayon::current_num_threads())
    }

    fn expected(&self, case: &Case, data: &Data) -> Result<Answer, Failure> {
        Ok(answer::expected(case, data))
    }

    fn prepare<'a>(&'a self, case: &Case, data: &Data) -> Result<Box<dyn Ready + 'a>, Failure> {
        let calls = Calls::rotating(case, &self.context, data)?;
        let from = vec![vec![1; case.bytes()]; calls.len()];
        Ok(Box::new(ReadyHost { to: from.clone(), from, calls }))
    }

    fn context(&self) -> &Context {
        &self.context
    }
}

struct ReadyHost {
    calls: Calls,
    from: Vec<Vec<u8>>,
    to: Vec<Vec<u8>>,
}

impl Ready for ReadyHost {
    fn calls(&self) -> &Calls {
        &self.calls
    }

    fn norm(&mut self, i: usize) -> Result<f64, Failure> {
        let start = Instant::now();
        self.calls.run(i % self.calls.len())?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    }

    fn copies(&self) -> usize {
        copy::WAYS.len()
    }

    fn copy(&mut self, way: usize, i: usize) -> Result<f64, Failure> {
        let i = i % self.from.len();
        let start = Instant::now();
        copy::copy(copy::WAYS[way], &mut self.to[i], &self.from[i]);
        Ok(start.elapsed().as_secs_f64() * 1e3)
    }

    fn traffic(&self) -> Result<Option<u64>, Failure> {
        Ok(None)
    }
}
