//! `imgfetch`.

fn main() {}
