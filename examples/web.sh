#!/usr/bin/env bash
# usage: examples/web.sh [build|test]
# Builds the pages and serves them; `build` only builds, `test` runs golden cases in Chromium, then the pages that were
# built. The first time takes some minutes: wasm-bindgen's tool is compiled, and everything for the web.
#
# Needs Rust with its wasm32-unknown-unknown target, or Debian's rustc-web, cargo-web, rust-web-src and lld, whose cargo
# builds std itself; python3 to serve; npm for wasm-opt, without which the modules are larger but run. PORT is 8080 if
# unset. Tests need Chromium with its chromedriver, npm, and Node.
set -euo pipefail
cd "$(dirname "$0")/.."
action=${1:-serve} port=${PORT:-8080}
target=${CARGO_TARGET_DIR:-$PWD/target}
tools=$target/web-tools wasm=wasm32-unknown-unknown out=$target/web

usage() {
    sed -n 's/^# usage: /usage: /p' "$0" >&2
    exit 2
}
fail() {
    echo "$*" >&2
    exit 1
}

# The module and its glue must come from the same version of wasm-bindgen, which the lock file pins. (What the tool itself is
# made of need not be what its author had.)
install_tools() {
    local version
    version=$(grep -A1 '^name = "wasm-bindgen"$' Cargo.lock | sed -n 's/^version = "\(.*\)"$/\1/p')
    [ "$("$tools/bin/wasm-bindgen" --version 2>/dev/null)" = "wasm-bindgen $version" ] ||
        CARGO_TARGET_DIR=$tools/target cargo install wasm-bindgen-cli --version "$version" --root "$tools"
    # Debian's binaryen (108) breaks the tables of references to JavaScript's objects.
    [ -x "$tools/node_modules/.bin/wasm-opt" ] || ! command -v npm >/dev/null ||
        npm install --silent --no-audit --no-fund --prefix "$tools" binaryen@132
}

# All browsers with WebGPU have simd128.
wasm_cargo() { # command options...
    local std=(-Zbuild-std=std,panic_abort)
    export RUSTFLAGS="-C target-feature=+simd128 ${RUSTFLAGS:-}"
    if [ -d "$(rustc --print sysroot)/lib/rustlib/$wasm/lib" ]; then
        cargo "$1" --target $wasm "${@:2}"
    elif [ ! -d /usr/lib/rustlib/src ]; then
        fail "std for $wasm is missing: rustup target add $wasm, or Debian's rustc-web, cargo-web, rust-web-src and lld"
    else
        [ "$1" = test ] && std+=(-Zpanic-abort-tests)
        CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=wasm-ld RUSTC_BOOTSTRAP=1 RUSTC=/usr/bin/rustc \
            /usr/bin/cargo "$1" --target $wasm "${std[@]}" "${@:2}"
    fi
}

# A folder with everything that a page needs.
build() { # package folder [assets in examples/folder...]
    local package=$1 page=$out/$2 name=${1//-/_} module asset
    (CARGO_TARGET_DIR=$target/wasm wasm_cargo build -p "$package" --lib --profile web)
    rm -rf "$page" && mkdir -p "$page"
    cp -r "examples/$2/web/." "$page"
    for asset in "${@:3}"; do cp -r "examples/$2/$asset" "$page"; done
    "$tools/bin/wasm-bindgen" --target web --out-dir "$page/pkg" "$target/wasm/$wasm/web/$name.wasm"
    module=$page/pkg/${name}_bg.wasm
    if [ -x "$tools/node_modules/.bin/wasm-opt" ]; then
        "$tools/node_modules/.bin/wasm-opt" -Oz --enable-simd --enable-bulk-memory --enable-reference-types \
            --enable-sign-ext --enable-nontrapping-float-to-int --enable-multivalue --enable-mutable-globals \
            --strip-debug --strip-producers "$module" -o "$module.small" && mv "$module.small" "$module"
    else
        echo "no npm, so no wasm-opt: $module stays larger than it has to be" >&2
    fi
    echo "$page: $(stat -c %s "$module") bytes of wasm, $(gzip -9c "$module" | wc -c) gzipped"
}

# In a folder of its own: panics that abort and those that tests catch must not share a std.
golden() {
    (
        export CARGO_TARGET_DIR=$target/wasm-test CHROMEDRIVER=${CHROMEDRIVER:-/usr/bin/chromedriver}
        export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER=$tools/bin/wasm-bindgen-test-runner
        export WASM_BINDGEN_TEST_WEBDRIVER_JSON=$PWD/tests/webdriver.json WASM_BINDGEN_TEST_TIMEOUT=900
        wasm_cargo test -p wgnorm --test web -- --nocapture
    )
}

pages() {
    [ -d "$tools/node_modules/playwright-core" ] && [ -d "$tools/node_modules/deno" ] ||
        npm install --silent --no-audit --no-fund --prefix "$tools" playwright-core@1 deno@2
    export WEB_TOOLS=$tools
    node examples/web_norm/tests/page.mjs "$out/web_norm"
    node examples/style_transfer/tests/web/page.mjs "$out/style_transfer" "$target/web-screenshots"
}

case $action in
    build | serve) ;;
    test) [ -d "$out/style_transfer/pkg" ] || fail "there are no pages to test: examples/web.sh build" ;;
    *) usage ;;
esac
[ "$action" = serve ] && (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null && fail "port $port is taken: set PORT to another"
install_tools
if [ "$action" = test ]; then
    golden
    pages
    exit
fi
build web-norm web_norm
build style-transfer style_transfer assets/styles
[ "$action" = build ] && exit
echo "http://localhost:$port/style_transfer/ and http://localhost:$port/web_norm/"
exec python3 -m http.server --bind 127.0.0.1 --directory "$out" "$port"
