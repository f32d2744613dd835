//! The cases of ops `adain_params`, `adain_style` and `conditional_instance_norm`.

use super::Run;
use super::index::Array;
use super::values::{Outputs, Pass, compare};
use crate::common::data::{Layout, fetch};
use crate::common::oracle::{self, Kind, Norm};
use serde::Deserialize;
use wgnorm::{AdaIn, ConditionalInstanceNorm, Error, Estimator, Tensor};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    eps: f64,
    #[serde(default)]
    unbiased_style_var: bool,
    style_shape: Option<Vec<usize>>,
    num_classes: Option<usize>,
}

/// A case's settings and what every call of it has.
struct Call<'a> {
    run: &'a Run<'a>,
    params: Params,
    x: Array,
    dy: Array,
    layout: Layout,
}

impl<'a> Call<'a> {
    fn new(run: &'a Run<'a>) -> Result<Self, String> {
        let params = Params::deserialize(&run.case.params).map_err(|e| format!("params: {e}"))?;
        let input = |name| run.golden.input(run.case, name)?.ok_or(format!("no {name}"));
        let (x, dy) = (input("x")?, input("dy")?);
        let layout = channels_first(&x.shape);
        Ok(Call { run, params, x, dy, layout })
    }

    fn input(&self, name: &str) -> Result<Array, String> {
        self.run.golden.input(self.run.case, name)?.ok_or(format!("no {name}"))
    }

    fn place(&self, array: &Array) -> Result<Tensor<'static>, Error> {
        array.logical(false)?.to_context(self.run.context)
    }

    /// With these tables, each (N, C).
    fn oracle<'t>(&self, weight: &'t [f64], bias: &'t [f64]) -> Norm<'t> {
        Norm {
            eps: self.params.eps,
            weight: Some(weight),
            bias: Some(bias),
            tables: true,
            ..Norm::new(Kind::Instance, self.layout.logical())
        }
    }

    fn compare(&self, outputs: &Outputs) -> Result<f64, String> {
        compare(self.run, outputs, Pass::Saved)
    }
}

fn channels_first(shape: &[usize]) -> Layout {
    Layout::first([shape[0], shape[1], shape[2..].iter().product()])
}

fn told(error: Error) -> String {
    error.to_string()
}

/// Tables of weights and biases, given.
pub async fn tables(run: &Run<'_>) -> Result<f64, String> {
    let call = Call::new(run)?;
    let (weight, bias) = (call.input("gamma")?, call.input("beta")?);
    let got = async || -> Result<_, Error> {
        let layer = AdaIn::config().with_eps(call.params.eps).init(run.context)?;
        let [x, dy, weight, bias] =
            [&call.x, &call.dy, &weight, &bias].map(|array| call.place(array));
        let (x, dy, weight, bias) = (x?, dy?, weight?, bias?);
        let unsaved = layer.forward_tables(run.context, &x, &weight, &bias)?;
        let (y, saved) = layer.forward_tables_saved(run.context, &x, &weight, &bias)?;
        let grads = layer.backward_tables(run.context, &saved, &dy)?;
        Ok((fetch(&unsaved).await?, fetch(&y).await?, grads))
    };
    let (unsaved, y, grads) = got().await.map_err(told)?;
    let norm = call.oracle(&weight.values, &bias.values);
    let truth = norm.backward(&call.x.values, &call.dy.values);
    let wanted = norm.forward(&call.x.values).y;
    let mut worst = 0f64;
    for y in [unsaved, y] {
        let mut outputs = Outputs::default();
        outputs.insert("y", y, wanted.clone());
        outputs.insert("dx", fetch(&grads.dx).await.map_err(told)?, truth.dx.clone());
        for (name, table, of, truth) in [
            ("dgamma", &grads.dweight, &weight, &truth.dweight),
            ("dbeta", &grads.dbias, &bias, &truth.dbias),
        ] {
            let table = table.as_ref().ok_or_else(|| format!("no {name}"))?;
            if **table.shape() != *of.shape {
                return Err(format!("{name} is {table:?}"));
            }
            outputs.insert(name, fetch(table).await.map_err(told)?, truth.clone());
        }
        worst = worst.max(call.compare(&outputs)?);
    }
    Ok(worst)
}

/// Tables from a style's own statistics.
pub async fn style(run: &Run<'_>) -> Result<f64, String> {
    let call = Call::new(run)?;
    let style = call.input("style")?;
    if call.params.style_shape.as_ref() != Some(&style.shape) {
        return Err(format!("the style is {:?}", style.shape));
    }
    let unbiased = call.params.unbiased_style_var;
    let got = async || -> Result<_, Error> {
        let estimator = if unbiased { Estimator::Unbiased } else { Estimator::Biased };
        let layer = AdaIn::config()
            .with_eps(call.params.eps)
            .with_style_estimator(estimator)
            .init(run.context)?;
        let [x, dy, style] = [&call.x, &call.dy, &style].map(|array| call.place(array));
        let (x, dy, style) = (x?, dy?, style?);
        let unsaved = layer.forward_style(run.context, &x, &style)?;
        let (y, saved) = layer.forward_style_saved(run.context, &x, &style)?;
        let grads = layer.backward_style(run.context, &saved, &dy)?;
        let (dx, dstyle) = (fetch(&grads.dx).await?, fetch(&grads.dstyle).await?);
        Ok((fetch(&unsaved).await?, fetch(&y).await?, dx, dstyle))
    };
    let (unsaved, y, dx, dstyle) = got().await.map_err(told)?;
    let shape = channels_first(&style.shape).logical();
    let eps = call.params.eps;
    let (deviations, means) = oracle::style_tables(&style.values, shape, eps, unbiased);
    let norm = call.oracle(&deviations, &means);
    let truth = norm.backward(&call.x.values, &call.dy.values);
    let dtables = [&truth.dweight[..], &truth.dbias[..]];
    let want = oracle::style_gradient(&style.values, shape, eps, unbiased, dtables);
    let wanted = norm.forward(&call.x.values).y;
    let mut worst = 0f64;
    for y in [unsaved, y] {
        let mut outputs = Outputs::default();
        outputs.insert("y", y, wanted.clone());
        outputs.insert("dx", dx.clone(), truth.dx.clone());
        outputs.insert("dstyle", dstyle.clone(), want.clone());
        worst = worst.max(call.compare(&outputs)?);
    }
    Ok(worst)
}

/// A bank of styles, one of them per sample: by index, and blended with the weights that say the same.
pub async fn conditional(run: &Run<'_>) -> Result<f64, String> {
    let call = Call::new(run)?;
    let (weight, bias) = (call.input("gamma_table")?, call.input("beta_table")?);
    let ids = run.case.inputs.get("class_ids").and_then(|input| input.tensor.as_ref());
    let ids = run.golden.integers(run.case.file()?, ids.ok_or("no class_ids")?)?;
    let [styles, channels] = weight.shape[..] else { return Err("a bank has two axes".into()) };
    if call.params.num_classes != Some(styles) {
        return Err(format!("a bank of {styles}, not {:?}", call.params.num_classes));
    }
    let got = async || -> Result<_, Error> {
        let mut layer = ConditionalInstanceNorm::config(styles, channels)
            .with_eps(call.params.eps)
            .init(run.context)?;
        layer.set_weight(&weight.logical(false)?)?;
        layer.set_bias(&bias.logical(false)?)?;
        let (x, dy) = (call.place(&call.x)?, call.place(&call.dy)?);
        let one_hot = |&id| (0..styles).map(move |k| f32::from(u8::from(k == id)));
        let blend: Vec<f32> = ids.iter().flat_map(one_hot).collect();
        let blend = Tensor::from_vec([ids.len(), styles], blend)?.to_context(run.context)?;
        let unsaved = [
            layer.forward_styles(run.context, &x, &ids)?,
            layer.forward_blend(run.context, &x, &blend)?,
        ];
        let saved = [
            layer.forward_styles_saved(run.context, &x, &ids)?,
            layer.forward_blend_saved(run.context, &x, &blend)?,
        ];
        let mut outputs = Vec::new();
        for (unsaved, (y, saved)) in unsaved.iter().zip(saved) {
            let grads = layer.backward(run.context, &saved, &dy)?;
            outputs.push((fetch(unsaved).await?, fetch(&y).await?, grads));
        }
        Ok(outputs)
    };
    let (weights, biases) = (rows(&weight, &ids), rows(&bias, &ids));
    let norm = call.oracle(&weights, &biases);
    let truth = norm.backward(&call.x.values, &call.dy.values);
    let dweight = gathered(&truth.dweight, &ids, styles);
    let dbias = gathered(&truth.dbias, &ids, styles);
    let wanted = norm.forward(&call.x.values).y;
    let mut worst = 0f64;
    for (unsaved, y, grads) in got().await.map_err(told)? {
        for y in [unsaved, y] {
            let mut outputs = Outputs::default();
            outputs.insert("y", y, wanted.clone());
            outputs.insert("dx", fetch(&grads.dx).await.map_err(told)?, truth.dx.clone());
            for (name, table, truth) in
                [("dgamma_table", &grads.dweight, &dweight), ("dbeta_table", &grads.dbias, &dbias)]
            {
                let table = table.as_ref().ok_or_else(|| format!("no {name}"))?;
                if **table.shape() != *weight.shape {
                    return Err(format!("{name} is {table:?}"));
                }
                outputs.insert(name, fetch(table).await.map_err(told)?, truth.clone());
            }
            worst = worst.max(call.compare(&outputs)?);
        }
    }
    Ok(worst)
}

/// The samples' rows of a bank.
fn rows(bank: &Array, ids: &[usize]) -> Vec<f64> {
    let channels = bank.shape[1];
    ids.iter().flat_map(|id| &bank.values[id * channels..][..channels]).copied().collect()
}

/// The bank's gradient from the samples'.
fn gathered(rows: &[f64], ids: &[usize], styles: usize) -> Vec<f64> {
    let channels = rows.len() / ids.len();
    let mut bank = vec![0.0; styles * channels];
    for (row, id) in rows.chunks(channels).zip(ids) {
        for (sum, v) in bank[id * channels..].iter_mut().zip(row) {
            *sum += v;
        }
    }
    bank
}
