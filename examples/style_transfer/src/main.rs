//! The command line: options in, one picture out, messages that say what to do.

mod output;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use output::Output;
use style_transfer::{
    ADAIN_SMALLEST_SIDE, AdaInNet, Error, Format, PHOTOGRAPH, Picture, PictureError, PictureFile,
    SMALLEST_SIDE, STYLES, Size, Style, Stylizer, TransformerNet, read_file,
};
use wgnorm::{Context, ContextOptions, Preference};

/// Paints a photograph in a style, with a small convolutional network, on the GPU or on the host.
///
/// Without arguments it paints an embedded photograph and writes stylized.png.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// The photograph: JPEG, PNG or WebP; an embedded one if left out
    input: Option<PathBuf>,
    /// The painting to write: .png, .jpg or .jpeg
    #[arg(default_value = "stylized.png")]
    output: PathBuf,
    /// An embedded style (see --list) or a file of weights (safetensors)
    #[arg(long, value_name = "NAME|FILE", default_value = STYLES[0].name)]
    style: String,
    #[command(flatten)]
    adain: AdaInOptions,
    /// Where to run
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    backend: Backend,
    /// Resize so that the longer side has this many pixels; unchanged if left out
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..))]
    size: Option<u32>,
    /// Let the painting replace the photograph, or the picture of --adain, where OUTPUT names it
    #[arg(long)]
    overwrite_input: bool,
    /// Print the embedded styles and exit
    #[arg(long)]
    list: bool,
}

#[derive(clap::Args)]
struct AdaInOptions {
    /// Take the style from this picture instead (AdaIn; reduced to 512 pixels if it is larger)
    #[arg(long, value_name = "PICTURE", conflicts_with = "style")]
    adain: Option<PathBuf>,
    /// How much of the picture's style to take, 0 to 1
    #[arg(long, default_value_t = 1.0, requires = "adain", value_parser = parse_alpha)]
    alpha: f32,
    /// AdaIn's encoder; $WGNORM_STYLE_DIR/adain/encoder16x_relu4_1.safetensors if left out
    #[arg(long, value_name = "FILE", requires = "adain")]
    encoder: Option<PathBuf>,
    /// AdaIn's decoder; $WGNORM_STYLE_DIR/adain/decoder16x_recon.safetensors if left out
    #[arg(long, value_name = "FILE", requires = "adain")]
    decoder: Option<PathBuf>,
}

/// AdaIn's networks, of which neither is embedded.
#[derive(Clone, Copy)]
enum Part {
    Encoder,
    Decoder,
}

impl AdaInOptions {
    /// Where a network's weights are: in the file that is given, or in the folder of the environment.
    fn weights(&self, part: Part) -> Option<PathBuf> {
        let (given, file) = match part {
            Part::Encoder => (&self.encoder, "encoder16x_relu4_1.safetensors"),
            Part::Decoder => (&self.decoder, "decoder16x_recon.safetensors"),
        };
        let folder = || std::env::var_os("WGNORM_STYLE_DIR").filter(|folder| !folder.is_empty());
        given.clone().or_else(|| Some(PathBuf::from(folder()?).join("adain").join(file)))
    }
}

fn parse_alpha(text: &str) -> Result<f32, String> {
    let alpha = text.parse().map_err(|e| format!("{e}"))?;
    if (0.0..=1.0).contains(&alpha) { Ok(alpha) } else { Err("expected 0 to 1".to_owned()) }
}

/// Longer side of a picture that a style is taken from, at most: larger ones cost time and hold brush strokes that the
/// encoder is too short-sighted for.
const STYLE_SIDE: u32 = 512;
/// The largest file of weights that is read: tens of times those of the networks known here.
const WEIGHTS_BYTES: u64 = 512 << 20;

#[derive(Clone, Copy, ValueEnum)]
enum Backend {
    /// A hardware GPU if there is one, else the host
    Auto,
    /// The best adapter, software included; an error if there is none
    Gpu,
    /// The processor
    Host,
}

/// What is printed and ends the program.
struct Failure(String);

fn main() -> ExitCode {
    let options = Options::parse();
    if options.list {
        for style in STYLES {
            // Whoever read the first ones may have gone (`| head`), which is no failure.
            let _ = writeln!(std::io::stdout(), "{:8}{}", style.name, style.about);
        }
        return ExitCode::SUCCESS;
    }
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(message)) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Checks come first, those that need only numbers before those that open a device; then comes the work.
fn run(options: &Options) -> Result<(), Failure> {
    let format = Format::of(&options.output).map_err(|e| failure(options.output.display(), &e))?;
    let output = find_output(options)?;
    let style = load_style(options)?;
    let file = load_picture(options.input.as_deref())?;
    let source = options.input.as_deref().unwrap_or(Path::new("embedded photograph")).display();
    let size = planned(&file, options.size, style.smallest_side()).map_err(|e| e.of(&source))?;
    let painted = style.painted(size);
    format
        .check(painted, style.smallest_side())
        .map_err(|e| failure(options.output.display(), &e))?;

    let context = open(options.backend)?;
    style.check(&context, size).map_err(|e| failure(&source, &e))?;
    let picture = decode(&file, options.size, &source)?;
    drop(file);
    output.say(format_args!("back end  {context}")); // and why, if it is not what was hoped for
    output.say(format_args!("style     {}; picture {}", style.about, picture.size()));
    let began = Instant::now();
    let mut stylizer = style.stylizer(&context)?;
    let prepared = began.elapsed();

    let began = Instant::now();
    let painting = paint(&mut stylizer, &picture).map_err(|e| match e {
        Error::NotFinite { .. } => failure(&style.weights, &e),
        _ => failure(source, &e),
    })?;
    let painted = began.elapsed();
    let bytes = painting.encode(format).map_err(|e| failure(options.output.display(), &e))?;
    output.write(&bytes).map_err(|e| failure(options.output.display(), &e))?;
    let (prepared, painted) = (seconds(prepared), seconds(painted));
    output.say(format_args!("times     {prepared} to prepare, {painted} to paint"));
    output.say(format_args!("wrote     {}", options.output.display()));
    Ok(())
}

/// Where the painting goes, if that is none of the files that it is made of.
fn find_output(options: &Options) -> Result<Output, Failure> {
    let adain = options.adain.adain.as_deref();
    let weights = |part| adain.and_then(|_| options.adain.weights(part));
    let (encoder, decoder) = (weights(Part::Encoder), weights(Part::Decoder));
    let style = Path::new(&options.style);
    let inputs = [
        (options.input.as_deref(), "the photograph", true),
        (adain, "the picture of the style", true),
        (Style::named(&options.style).is_err().then_some(style), "the file of weights", false),
        (encoder.as_deref(), "the file of weights", false),
        (decoder.as_deref(), "the file of weights", false),
    ];
    let found = Output::find(&options.output).and_then(|output| {
        for (input, what, allowed) in inputs {
            let Some(input) = input else { continue };
            if !(allowed && options.overwrite_input) {
                output.spare(input, what, allowed)?;
            }
        }
        Ok(output)
    });
    found.map_err(|e| failure(options.output.display(), &e))
}

/// The size that a picture is resized to, and refused for.
fn planned(file: &PictureFile, longer: Option<u32>, smallest: usize) -> Result<Size, Refusal> {
    let size = file.resized(longer).map_err(Refusal::from)?;
    if size.height.min(size.width) >= smallest {
        return Ok(size);
    }
    let refused = PictureError::TooSmall { size, smallest };
    // The longer side with which the shorter is rounded to enough.
    let from = file.size();
    let (shorter, longer) = (from.height.min(from.width), from.height.max(from.width));
    let enough = ((smallest as f64 - 0.5) * longer as f64 / shorter as f64).ceil() as u32;
    let hint = file.resized(Some(enough)).is_ok().then_some(enough);
    Err(Refusal { error: refused, hint })
}

/// An error, and a `--size` with which it is none.
struct Refusal {
    error: PictureError,
    hint: Option<u32>,
}

impl From<PictureError> for Refusal {
    fn from(error: PictureError) -> Refusal {
        Refusal { error, hint: None }
    }
}

impl Refusal {
    fn of(self, source: impl std::fmt::Display) -> Failure {
        let hint = self.hint.map(|n| format!("; try --size {n} or more")).unwrap_or_default();
        Failure(format!("{source}: {}{hint}", self.error))
    }
}

fn paint(stylizer: &mut Stylizer, picture: &Picture) -> Result<Picture, Error> {
    let style =
        ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}").expect("the template is right");
    let bar = ProgressBar::new(0).with_style(style);
    let painting = stylizer.stylize(picture, |progress| {
        bar.set_length(progress.total as u64);
        bar.set_position(progress.done as u64);
        bar.set_message(progress.stage);
    });
    let painting = pollster::block_on(painting);
    bar.finish_and_clear();
    painting
}

/// What to paint with.
struct Chosen {
    /// As the user named it.
    name: String,
    /// What its weights are from.
    weights: String,
    about: String,
    method: Method,
}

enum Method {
    Transformer(TransformerNet),
    AdaIn { net: AdaInNet, style: PictureFile<'static>, size: Option<u32>, alpha: f32 },
}

impl Chosen {
    fn smallest_side(&self) -> usize {
        match self.method {
            Method::Transformer(_) => SMALLEST_SIDE,
            Method::AdaIn { .. } => ADAIN_SMALLEST_SIDE,
        }
    }

    /// The painting's size for a picture of `size`.
    fn painted(&self, size: Size) -> Size {
        match self.method {
            Method::Transformer(_) => size,
            Method::AdaIn { .. } => AdaInNet::output(size),
        }
    }

    fn check(&self, context: &Context, size: Size) -> Result<(), Error> {
        match &self.method {
            Method::Transformer(net) => net.check(context, size),
            Method::AdaIn { net, .. } => net.check(context, size),
        }
    }

    fn stylizer(&self, context: &Context) -> Result<Stylizer, Failure> {
        let made = match &self.method {
            Method::Transformer(net) => pollster::block_on(Stylizer::new(context, net)),
            Method::AdaIn { net, style, size, alpha } => {
                let style = decode(style, *size, &self.name)?;
                pollster::block_on(Stylizer::adain(context, net, &style, *alpha))
            }
        };
        made.map_err(|e| failure(&self.name, &e))
    }
}

/// A picture's style, or that of a network.
fn load_style(options: &Options) -> Result<Chosen, Failure> {
    if let Some(path) = &options.adain.adain {
        return load_adain(path, &options.adain);
    }
    let name = options.style.clone();
    let net = load_net(&name)?;
    let about = format!("{name}, width {}", net.width());
    let weights = name.clone();
    Ok(Chosen { name, weights, about, method: Method::Transformer(net) })
}

/// An embedded style by name, or a file of weights, whatever it is called: what it is, its content says.
fn load_net(style: &str) -> Result<TransformerNet, Failure> {
    let path = Path::new(style);
    match Style::named(style) {
        Ok(named) => return named.net().map_err(|e| failure(style, &e)),
        Err(unknown) if path.extension().is_none() && !path.exists() => {
            return Err(Failure(unknown.to_string()));
        }
        Err(_) => {}
    }
    let bytes = read_weights(path)?;
    TransformerNet::from_safetensors(&bytes).map_err(|e| failure(style, &e))
}

fn read_weights(path: &Path) -> Result<Vec<u8>, Failure> {
    let read = read_file(path, WEIGHTS_BYTES);
    read.map_err(|e| Failure(format!("{}: cannot be read: {e}", path.display())))
}

fn load_adain(path: &Path, options: &AdaInOptions) -> Result<Chosen, Failure> {
    let weights = |part| {
        let missing = "--adain needs networks that are not embedded: give --encoder and --decoder, or set WGNORM_STYLE_DIR";
        let path = options.weights(part).ok_or_else(|| Failure(missing.to_owned()))?;
        let bytes = read_weights(&path)?;
        Ok((path, bytes))
    };
    let encoder = weights(Part::Encoder)?;
    let decoder = weights(Part::Decoder)?;
    let net = AdaInNet::from_safetensors(&encoder.1, &decoder.1).map_err(|error| match &error {
        Error::Decoder(_) => failure(decoder.0.display(), &error),
        _ => failure(encoder.0.display(), &error),
    })?;
    let style = load_picture(Some(path))?;
    let longer = style.size().height.max(style.size().width);
    let size = (longer > STYLE_SIDE as usize).then_some(STYLE_SIDE);
    let (name, alpha) = (path.display().to_string(), options.alpha);
    let reduced = planned(&style, size, ADAIN_SMALLEST_SIDE);
    let reduced = reduced.map_err(|refused| match refused.error {
        PictureError::TooSmall { size: reduced, smallest } => {
            let from = style.size();
            let (how, remedy) = match size {
                None => (String::new(), "take a larger picture"),
                Some(_) => (
                    format!(", reduced to {reduced} for a style,"),
                    "crop it to a part that is nearer to a square",
                ),
            };
            let needs = format!("each side of a style needs at least {smallest}");
            Failure(format!("{name}: {from} pixels{how} are too few: {needs}; {remedy}"))
        }
        error => failure(&name, &error),
    })?;
    let about = format!("{name} {reduced} by AdaIn, alpha {alpha}, width {}", net.width());
    let weights = format!("{} and {}", encoder.0.display(), decoder.0.display());
    Ok(Chosen { name, weights, about, method: Method::AdaIn { net, style, size, alpha } })
}

/// A picture's file, of which only the header is decoded.
fn load_picture(path: Option<&Path>) -> Result<PictureFile<'static>, Failure> {
    match path {
        None => PictureFile::new(PHOTOGRAPH).map_err(|e| failure("embedded photograph", &e)),
        Some(path) => PictureFile::open(path).map_err(|e| failure(path.display(), &e)),
    }
}

fn decode(
    file: &PictureFile,
    longer: Option<u32>,
    name: impl std::fmt::Display,
) -> Result<Picture, Failure> {
    let picture = file.decode(longer).map_err(|e| failure(&name, &e))?;
    if picture.is_cut_off() {
        eprintln!("warning: {name}: the file is cut off; what there is of it is painted");
    }
    Ok(picture)
}

fn open(backend: Backend) -> Result<Context, Failure> {
    let (preference, allow_software) = match backend {
        Backend::Auto => (Preference::Auto, false),
        Backend::Gpu => (Preference::Gpu, true),
        Backend::Host => (Preference::Host, false),
    };
    let options = ContextOptions { preference, allow_software, ..ContextOptions::default() };
    let hint = "try --backend host";
    Context::open_with_blocking(&options).map_err(|e| Failure(format!("no GPU: {e}; {hint}")))
}

fn seconds(duration: Duration) -> String {
    format!("{:.3} s", duration.as_secs_f64())
}

fn failure(what: impl std::fmt::Display, error: &dyn std::error::Error) -> Failure {
    Failure(format!("{what}: {error}"))
}
