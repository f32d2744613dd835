use style_transfer::*;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let ctx = if a[1] == "host" { wgnorm::Context::host() } else { wgnorm::Context::open_with_blocking(&wgnorm::ContextOptions { preference: wgnorm::Preference::Gpu, allow_software: true, adapter: None }).unwrap() };
    println!("{ctx}");
    let net = TransformerNet::from_safetensors(&std::fs::read(&a[2]).unwrap()).unwrap();
    let p = Picture::open(a[3].as_ref()).unwrap();
    let t = std::time::Instant::now();
    let mut s = pollster::block_on(Stylizer::new(&ctx, &net)).unwrap();
    println!("prepare {:?}", t.elapsed());
    for _ in 0..2 {
        let t = std::time::Instant::now();
        let mut last = t;
        let o = pollster::block_on(s.stylize(&p, |p| { if std::env::var("V").is_ok() { println!("{} {:?}", p.stage, last.elapsed()); } last = std::time::Instant::now(); })).unwrap();
        println!("run {:?}", t.elapsed());
        std::fs::write("/tmp/out.png", o.encode(Format::Png).unwrap()).unwrap();
    }
}
