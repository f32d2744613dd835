//! The styles that come with the demo, made for it (`train/`): a clone works without any download.

use crate::error::{Error, WeightsError};
use crate::net::TransformerNet;

/// An embedded style: the weights are exact in f16 and stored so.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// What `--style` takes.
    pub name: &'static str,
    /// How it looks.
    pub about: &'static str,
    weights: &'static [u8],
}

/// The embedded styles; the first is the default.
pub const STYLES: [Style; 4] = [
    Style {
        name: "glass",
        about: "stained glass: strong colours, panes between dark lines",
        weights: include_bytes!("../assets/styles/glass.safetensors"),
    },
    Style {
        name: "ink",
        about: "pen and ink: hatching on warm paper",
        weights: include_bytes!("../assets/styles/ink.safetensors"),
    },
    Style {
        name: "swirl",
        about: "a night sky: blue and yellow brush strokes that swirl",
        weights: include_bytes!("../assets/styles/swirl.safetensors"),
    },
    Style {
        name: "waves",
        about: "printed waves: flat pale colours with dark outlines",
        weights: include_bytes!("../assets/styles/waves.safetensors"),
    },
];

impl Style {
    /// The embedded style of this name.
    pub fn named(name: &str) -> Result<Style, Error> {
        STYLES
            .into_iter()
            .find(|style| style.name == name)
            .ok_or_else(|| Error::UnknownStyle(name.to_owned()))
    }

    /// The network that paints in this style.
    pub fn net(&self) -> Result<TransformerNet, WeightsError> {
        TransformerNet::from_safetensors(self.weights)
    }
}

/// The embedded photograph: Eileen Collins, by NASA, public domain. A PNG of 256x256 pixels.
pub const PHOTOGRAPH: &[u8] = include_bytes!("../assets/astronaut.png");

/// The names in one line, for messages.
pub(crate) fn names() -> String {
    STYLES.map(|style| style.name).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_embedded_style_loads_and_has_its_own_name() {
        for style in STYLES {
            assert_eq!(style.net().unwrap().width(), 16, "{}", style.name);
            assert_eq!(Style::named(style.name).unwrap().about, style.about);
        }
    }

    #[test]
    fn an_unknown_style_names_the_known_ones() {
        let message = Style::named("oil").unwrap_err().to_string();
        assert!(
            message.contains("`oil`") && message.contains("glass, ink, swirl, waves"),
            "{message}"
        );
    }
}
