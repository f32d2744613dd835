//! The command line: options in, one picture out, messages that say what to do.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use style_transfer::{
    AdaInNet, Error, Format, PHOTOGRAPH, Picture, STYLES, Style, Stylizer, TransformerNet,
    read_file,
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
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..=32_768))]
    size: Option<u32>,
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
            say(format_args!("{:8}{}", style.name, style.about));
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

/// A line of output. Whoever read the first ones may have gone (`| head`), which is no failure.
fn say(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn run(options: &Options) -> Result<(), Failure> {
    // All that can be wrong with the arguments comes before the work.
    let format = Format::of(&options.output).map_err(|e| failure(options.output.display(), &e))?;
    let style = load_style(options)?;
    let mut picture = load_picture(options.input.as_deref())?;
    let source = options.input.as_deref().unwrap_or(Path::new("embedded photograph")).display();
    if let Some(pixels) = options.size {
        picture = picture.resized(pixels);
    }
    let output = Output::claim(&options.output)?;

    let context = open(options.backend)?;
    say(format_args!("back end  {context}")); // and why, if it is not what was hoped for
    say(format_args!("style     {}; picture {}", style.about, picture.size()));
    let began = Instant::now();
    let made = pollster::block_on(style.stylizer(&context));
    let mut stylizer = made.map_err(|e| failure(&style.name, &e))?;
    let prepared = began.elapsed();

    let began = Instant::now();
    let painting = paint(&mut stylizer, &picture).map_err(|e| match e {
        Error::NotFinite { .. } => failure(&style.name, &e),
        _ => failure(source, &e),
    })?;
    let painted = began.elapsed();
    let bytes = painting.encode(format).map_err(|e| failure(options.output.display(), &e))?;
    output.write(&bytes)?;
    let (prepared, painted) = (seconds(prepared), seconds(painted));
    say(format_args!("times     {prepared} to prepare, {painted} to paint"));
    say(format_args!("wrote     {}", options.output.display()));
    Ok(())
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
    about: String,
    method: Method,
}

enum Method {
    Transformer(TransformerNet),
    AdaIn { net: AdaInNet, style: Picture, alpha: f32 },
}

impl Chosen {
    async fn stylizer(&self, context: &Context) -> Result<Stylizer, Error> {
        match &self.method {
            Method::Transformer(net) => Stylizer::new(context, net).await,
            Method::AdaIn { net, style, alpha } => {
                Stylizer::adain(context, net, style, *alpha).await
            }
        }
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
    Ok(Chosen { name, about, method: Method::Transformer(net) })
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
    let bytes = read_file(path, WEIGHTS_BYTES).map_err(|e| failure(style, &e))?;
    TransformerNet::from_safetensors(&bytes).map_err(|e| failure(style, &e))
}

fn load_adain(path: &Path, options: &AdaInOptions) -> Result<Chosen, Failure> {
    let folder = std::env::var_os("WGNORM_STYLE_DIR").filter(|dir| !dir.is_empty());
    let folder = folder.map(|dir| PathBuf::from(dir).join("adain"));
    let weights = |given: &Option<PathBuf>, file: &str| {
        let path = given.clone().or_else(|| Some(folder.as_ref()?.join(file)));
        let missing = "--adain needs networks that are not embedded: give --encoder and --decoder, or set WGNORM_STYLE_DIR";
        let path = path.ok_or_else(|| Failure(missing.to_owned()))?;
        let bytes = read_file(&path, WEIGHTS_BYTES).map_err(|e| failure(path.display(), &e))?;
        Ok((path, bytes))
    };
    let encoder = weights(&options.encoder, "encoder16x_relu4_1.safetensors")?;
    let decoder = weights(&options.decoder, "decoder16x_recon.safetensors")?;
    let net = AdaInNet::from_safetensors(&encoder.1, &decoder.1).map_err(|error| match &error {
        Error::Decoder(_) => failure(decoder.0.display(), &error),
        _ => failure(encoder.0.display(), &error),
    })?;
    let mut style = load_picture(Some(path))?;
    if style.size().height.max(style.size().width) > STYLE_SIDE as usize {
        style = style.resized(STYLE_SIDE);
    }
    let (name, alpha) = (path.display().to_string(), options.alpha);
    let about = format!("{name} {} by AdaIn, alpha {alpha}, width {}", style.size(), net.width());
    Ok(Chosen { name, about, method: Method::AdaIn { net, style, alpha } })
}

fn load_picture(path: Option<&Path>) -> Result<Picture, Failure> {
    match path {
        None => Picture::decode(PHOTOGRAPH).map_err(|e| failure("embedded photograph", &e)),
        Some(path) => Picture::open(path).map_err(|e| failure(path.display(), &e)),
    }
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

/// The output file, opened before the work so that a name that cannot be written costs no waiting. What it held stays
/// until there is something better; where there was no file, none is left behind by a failure.
struct Output<'a> {
    path: &'a Path,
    created: bool,
}

impl<'a> Output<'a> {
    fn claim(path: &'a Path) -> Result<Output<'a>, Failure> {
        let created = !path.exists();
        let opened =
            std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(path);
        opened.map_err(|e| unwritable(path, e))?;
        Ok(Output { path, created })
    }

    fn write(mut self, bytes: &[u8]) -> Result<(), Failure> {
        std::fs::write(self.path, bytes).map_err(|e| unwritable(self.path, e))?;
        self.created = false;
        Ok(())
    }
}

impl Drop for Output<'_> {
    fn drop(&mut self) {
        if self.created {
            // Nothing to say if even that fails: another message is on its way.
            let _ = std::fs::remove_file(self.path);
        }
    }
}

fn unwritable(path: &Path, error: std::io::Error) -> Failure {
    failure(path.display(), &style_transfer::PictureError::Write(error))
}
