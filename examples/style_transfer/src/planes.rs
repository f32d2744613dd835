//! Pictures as networks see them.

use crate::error::Error;
use crate::net::Size;

/// Three colour planes (red, green, blue) of f32 in 0..255, as the network reads and writes them: an NCHW tensor
/// with N = 1 and C = 3.
#[derive(Clone, Debug, PartialEq)]
pub struct Planes {
    /// Size of each plane.
    pub size: Size,
    /// `3 · height · width` values, rows contiguous.
    pub data: Vec<f32>,
}

impl Planes {
    /// The same planes, unless a value is NaN or infinite, which has no colour.
    ///
    /// # Errors
    /// [`Error::NotFinite`] with the first such value.
    pub(crate) fn finite(self, on_gpu: bool) -> Result<Planes, Error> {
        let spoiled = |value: &f32| !value.is_finite();
        let Some(first) = self.data.iter().position(spoiled) else { return Ok(self) };
        let place = first % self.size.area();
        Err(Error::NotFinite {
            count: self.data.iter().filter(|value| spoiled(value)).count(),
            total: self.data.len(),
            value: self.data[first],
            x: place % self.size.width,
            y: place / self.size.width,
            on_gpu,
        })
    }

    /// From red, green, blue, alpha of each pixel, as a browser's canvas has them; alpha is left out.
    ///
    /// # Panics
    /// If there are not four bytes for each pixel.
    pub fn from_rgba(rgba: &[u8], size: Size) -> Planes {
        assert_eq!(rgba.len(), 4 * size.area(), "{size} pixels of four bytes");
        let plane = |colour: usize| rgba[colour..].iter().step_by(4).map(|&v| f32::from(v));
        let data = plane(0).chain(plane(1)).chain(plane(2)).collect();
        Planes { size, data }
    }

    /// Red, green, blue, and an opaque alpha, of each pixel of the top left `size`, rounded as
    /// [`pixel`](Self::pixel) does.
    ///
    /// # Panics
    /// If the planes are smaller.
    pub fn to_rgba(&self, size: Size) -> Vec<u8> {
        let rows = (0..size.height).flat_map(|y| (0..size.width).map(move |x| (x, y)));
        rows.flat_map(|(x, y)| {
            let [r, g, b] = self.pixel(x, y);
            [r, g, b, u8::MAX]
        })
        .collect()
    }

    /// Red, green and blue of a pixel, clamped to 0..255 and rounded half to even (as PyTorch's `round` does).
    pub fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        [0, 1, 2].map(|colour| {
            let value = self.data[(colour * self.size.height + y) * self.size.width + x];
            value.clamp(0.0, 255.0).round_ties_even() as u8
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canvas_and_back_is_the_same_but_for_its_alpha() {
        let rgba: Vec<u8> = (0..4 * 6).collect();
        let planes = Planes::from_rgba(&rgba, Size::new(2, 3));
        assert_eq!(planes.data[..6], [0.0, 4.0, 8.0, 12.0, 16.0, 20.0]);
        let mut opaque = rgba.clone();
        opaque.iter_mut().skip(3).step_by(4).for_each(|alpha| *alpha = 255);
        assert_eq!(planes.to_rgba(planes.size), opaque);
        assert_eq!(planes.to_rgba(Size::new(1, 2)), opaque[..8]);
    }
}
