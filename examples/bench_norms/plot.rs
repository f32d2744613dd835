//! The results as a roofline: time against bytes, and the line of the copy.

use crate::{Failure, Line};
use plotters::prelude::*;
use std::path::Path;

/// Far apart for the eye.
const COLOURS: [RGBColor; 11] = [
    RGBColor(31, 119, 180),
    RGBColor(255, 127, 14),
    RGBColor(44, 160, 44),
    RGBColor(214, 39, 40),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
    RGBColor(227, 119, 194),
    RGBColor(127, 127, 127),
    RGBColor(188, 189, 34),
    RGBColor(23, 190, 207),
    RGBColor(0, 0, 0),
];

/// MB that must be moved, and ms.
type Point = (f64, f64);

pub fn draw(file: &Path, lines: &[Line]) -> Result<(), Failure> {
    let megabytes = |line: &Line| line.gbps * line.ms_median;
    let point = |line: &Line| (megabytes(line), line.ms_median);
    let mut copies: Vec<Point> =
        lines.iter().map(|line| (megabytes(line), megabytes(line) / line.copy_gbps)).collect();
    copies.sort_by(|a, b| a.0.total_cmp(&b.0));
    let points = || lines.iter().map(point).chain(copies.iter().copied());
    let area = SVGBackend::new(file, (1000, 700)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(format!("wgnorm on {}", lines[0].device), ("sans-serif", 22))
        .margin(16)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(
            range(points().map(|point| point.0)).log_scale(),
            range(points().map(|point| point.1)).log_scale(),
        )?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("MB that must be read and written; hollow: f16 or NHWC")
        .y_desc("ms, median")
        .draw()?;
    chart
        .draw_series(LineSeries::new(medians(&copies), BLACK.stroke_width(2)))?
        .label("the copy")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], BLACK.stroke_width(2)));
    let mut ops: Vec<_> = lines.iter().map(|line| line.op).collect();
    ops.dedup();
    ops.sort_unstable();
    ops.dedup();
    for (op, colour) in ops.into_iter().zip(COLOURS) {
        let mark = |line: &Line| {
            let plain = line.dtype == "f32" && line.layout != "nhwc";
            let style = if plain { colour.filled() } else { colour.into() };
            Circle::new(point(line), 4, style)
        };
        chart
            .draw_series(lines.iter().filter(|line| line.op == op).map(mark))?
            .label(op)
            .legend(move |(x, y)| Circle::new((x + 8, y), 4, colour.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    area.present()?;
    Ok(())
}

/// Whole powers of ten around the values: axes have labels there.
fn range(values: impl Iterator<Item = f64> + Clone) -> std::ops::Range<f64> {
    let least = values.clone().fold(f64::INFINITY, f64::min);
    let most = values.fold(0.0, f64::max);
    10f64.powf(least.log10().floor())..10f64.powf(most.log10().ceil())
}

/// One point for each number of bytes, of sorted ones.
fn medians(copies: &[Point]) -> Vec<Point> {
    let same = |a: &Point, b: &Point| (a.0 / b.0 - 1.0).abs() < 1e-6;
    let median = |of_size: &[Point]| {
        let mut times: Vec<f64> = of_size.iter().map(|copy| copy.1).collect();
        (of_size[0].0, crate::median(&mut times))
    };
    copies.chunk_by(same).map(median).collect()
}
