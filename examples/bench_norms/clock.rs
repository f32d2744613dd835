//! How long work takes on a GPU.

use crate::Failure;
use std::time::Instant;
use wgpu::BufferUsages as Usage;

/// A pass has two timestamps of 64 bits.
const BYTES: u64 = 16;

pub struct Clock {
    pub device: wgpu::Device,
    queue: wgpu::Queue,
    /// Where the device writes timestamps, and from where they are read; if it has any.
    queries: Option<(wgpu::QuerySet, wgpu::Buffer, wgpu::Buffer)>,
}

impl Clock {
    pub fn new(device: wgpu::Device, queue: wgpu::Queue) -> Clock {
        let buffer = |usage| {
            let descriptor = wgpu::BufferDescriptor {
                label: Some("timestamps"),
                size: BYTES,
                usage,
                mapped_at_creation: false,
            };
            device.create_buffer(&descriptor)
        };
        let queries = device.features().contains(wgpu::Features::TIMESTAMP_QUERY).then(|| {
            let set = device.create_query_set(&wgpu::QuerySetDescriptor {
                label: None,
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            });
            let resolved = buffer(Usage::QUERY_RESOLVE | Usage::COPY_SRC);
            (set, resolved, buffer(Usage::COPY_DST | Usage::MAP_READ))
        });
        Clock { device, queue, queries }
    }

    /// Milliseconds of one compute pass: by timestamps if wanted and there are any, else from
    /// submission to completion.
    pub fn pass(
        &self,
        timestamps: bool,
        record: impl FnOnce(&mut wgpu::ComputePass<'_>) -> Result<(), wgnorm::Error>,
    ) -> Result<f64, Failure> {
        let queries = self.queries.as_ref().filter(|_| timestamps);
        let mut encoder = self.device.create_command_encoder(&Default::default());
        let timestamp_writes = queries.map(|(query_set, ..)| wgpu::ComputePassTimestampWrites {
            query_set,
            beginning_of_pass_write_index: Some(0),
            end_of_pass_write_index: Some(1),
        });
        let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
        record(&mut encoder.begin_compute_pass(&descriptor))?;
        if let Some((set, resolved, read)) = queries {
            encoder.resolve_query_set(set, 0..2, resolved, 0);
            encoder.copy_buffer_to_buffer(resolved, 0, read, 0, BYTES);
        }
        let commands = encoder.finish();
        let wall = self.wall(|| {
            self.queue.submit([commands]);
            Ok(())
        })?;
        queries.map_or(Ok(wall), |(.., read)| self.between_timestamps(read))
    }

    /// Milliseconds until everything is done that `submit` submits.
    pub fn wall(&self, submit: impl FnOnce() -> Result<(), wgnorm::Error>) -> Result<f64, Failure> {
        let start = Instant::now();
        submit()?;
        self.device.poll(wgpu::PollType::wait_indefinitely())?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    }

    fn between_timestamps(&self, read: &wgpu::Buffer) -> Result<f64, Failure> {
        // Mapping fails only with the device, and then there is no range.
        read.map_async(wgpu::MapMode::Read, .., |_| {});
        self.device.poll(wgpu::PollType::wait_indefinitely())?;
        let ticks: [u64; 2] = *bytemuck::from_bytes(&read.get_mapped_range(..)?);
        read.unmap();
        Ok(ticks[1].saturating_sub(ticks[0]) as f64 * f64::from(self.queue.get_timestamp_period())
            / 1e6)
    }
}
