//! `imgfetch`: see `imgfetch::cli`.

fn main() -> std::process::ExitCode {
    imgfetch::cli::main()
}
