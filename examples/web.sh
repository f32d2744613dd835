#!/usr/bin/env bash
# Builds the pages and serves them; `examples/web.sh build` only builds. `examples/web.sh test` runs golden cases in
# Chromium, then the pages that were built.
#
# Needs Rust with its wasm32-unknown-unknown target, or Debian's rustc-web, cargo-web, rust-web-src and lld, whose cargo
# builds std itself; python3 to serve; npm for wasm-opt, without which the modules are larger but run. PORT is 8080 if
# unset. Tests need Chromium with its chromedriver, npm, and Node.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}
tools=$target/web-tools wasm=wasm32-unknown-unknown out=$target/web

# The module and its glue must come from the same version of wasm-bindgen, which the lock file pins.
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
    [ -d "$tools/node_modules/playwright-core" ] ||
        npm install --silent --no-audit --no-fund --prefix "$tools" playwright-core
    export WEB_TOOLS=$tools
    node examples/web_norm/tests/page.mjs "$out/web_norm"
    node examples/style_transfer/tests/web/page.mjs "$out/style_transfer" "$target/web-screenshots"
}

install_tools
if [ "${1:-}" = test ]; then
    golden
    pages
    exit
fi
build web-norm web_norm
build style-transfer style_transfer assets/styles
[ "${1:-}" = build ] && exit
echo "http://localhost:${PORT:-8080}/style_transfer/ and http://localhost:${PORT:-8080}/web_norm/"
exec python3 -m http.server --bind 127.0.0.1 --directory "$out" "${PORT:-8080}"
