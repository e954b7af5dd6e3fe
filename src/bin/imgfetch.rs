//! `imgfetch`: see `imgfactory::cli_fetch`.

fn main() -> std::process::ExitCode {
    imgfactory::cli_fetch::main()
}
