//! `imgfactory`: see `imgfactory::cli`.

fn main() -> formats::report::Exit {
    imgfactory::cli::main()
}
