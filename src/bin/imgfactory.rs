//! `imgfactory`.

fn main() {}
