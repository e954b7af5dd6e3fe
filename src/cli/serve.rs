//! `imgfactory serve`.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::{Failure, Session, print};
use crate::pipeline::build_record::{FILE, MIRROR};
use crate::repository::server::Server;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Meant for tests and local networks; for a public mirror use nginx or another web server. \
                  With -v each request is shown. Ctrl-C stops the server."
)]
pub(super) struct Args {
    /// A mirror tree, or the output directory of a build
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Address and port to listen on; port 0 selects a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
}

pub(super) fn run(args: Args, session: &Session) -> Result<formats::report::Exit, Failure> {
    let of_build = args.dir.join(MIRROR);
    let root = if args.dir.join(FILE).is_file() && of_build.is_dir() { of_build } else { args.dir };
    let server = Server::start(&root, args.listen)?;
    print(&format!("http://{}/\n", server.address()))?;
    session.progress.say(&format!("serving {}; press Ctrl-C to stop", root.display()));
    // A signal ends the process.
    loop {
        std::thread::park();
    }
}
