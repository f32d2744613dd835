//! The spans that the feature `tracing` gives.

mod common;

use common::device;
use std::sync::{Arc, Mutex};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use wgnorm::{BatchNorm1d, Mode, NormLayer, Tensor};

/// What was said, in order.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0 += &format!(" {field}={value:?}");
    }
}

impl Subscriber for Heard {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("wgnorm")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = Fields(span.metadata().name().to_owned());
        span.record(&mut fields);
        let mut heard = self.0.lock().unwrap();
        heard.push(fields.0);
        Id::from_u64(heard.len() as u64)
    }

    fn exit(&self, span: &Id) {
        self.0.lock().unwrap().push(format!("end of {}", span.into_u64()));
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &Id) {}
}

#[test]
fn each_call_is_a_span() {
    for device in device::all() {
        let context = &device.context;
        let layer = BatchNorm1d::config(2).init(context).unwrap();
        let x = Tensor::from_slice([2, 2], &[1.0, 2.0, 3.0, 4.0]).unwrap();
        let x = x.to_context(context).unwrap();
        let heard = Heard::default();
        tracing::subscriber::with_default(heard.clone(), || {
            layer.forward(context, &x, Mode::Eval).unwrap();
            let (_, saved) = layer.forward_saved(context, &x, Mode::Train).unwrap();
            layer.backward(context, &saved, &x).unwrap();
        });
        let span =
            |call| format!("wgnorm call={call:?} layer=\"BatchNorm1d\" x=(2, 2) dtype=float32");
        let end = |span| format!("end of {span}");
        let want =
            [span("forward"), end(1), span("forward_saved"), end(3), span("backward"), end(5)];
        assert_eq!(*heard.0.lock().unwrap(), want, "{}", device.name);
    }
}
