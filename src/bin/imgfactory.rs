//! `imgfactory`: see `imgfactory::cli`.

fn main() -> imgfactory::report::Exit {
    imgfactory::cli::main()
}
