//! `weir-lab-host`: what runs in the nodes of the lab besides the programs under test.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use weir_lab::{Internet, hold, serve};

/// Small programs for the nodes of the lab.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Become a node: hold its namespaces until standard input ends
    Hold {
        /// The node's host name
        name: String,
        /// The directory of the lab's logs, which is removed at the end
        logs: PathBuf,
    },
    /// Build the little internet, and keep it until Ctrl-C
    Internet,
    /// Tell clients which address they come from, or stream slowly to them
    Serve {
        /// The addresses to listen on
        #[arg(long = "address", default_value = "0.0.0.0")]
        addresses: Vec<IpAddr>,
        /// TCP ports
        #[arg(long)]
        tcp: Vec<u16>,
        /// UDP ports
        #[arg(long)]
        udp: Vec<u16>,
    },
    /// Ask a server over TCP which address we come from
    Tcp(Ask),
    /// Ask a server over UDP which address we come from
    Udp(Ask),
    /// Ask a server over UDP again and again from one socket, answers or not
    Talk {
        /// The server
        server: SocketAddr,
        /// Milliseconds between two questions
        #[arg(long, default_value_t = 100)]
        every: u64,
    },
    /// Send bytes to a server and take as many from it
    Transfer {
        /// The server
        server: SocketAddr,
        /// How many
        #[arg(long, default_value_t = 200_000)]
        bytes: u64,
        /// Give up after this many seconds in which nothing goes on
        #[arg(long, default_value_t = 3.0)]
        idle: f64,
    },
    /// Download until it breaks; print each line with its time in milliseconds since 1970
    Download {
        /// The server
        server: SocketAddr,
        /// Give up after this many seconds without a line
        #[arg(long, default_value_t = 3.0)]
        idle: f64,
    },
}

#[derive(Debug, clap::Args)]
struct Ask {
    /// The server
    server: SocketAddr,
    /// Seconds to wait for an answer
    #[arg(long, default_value_t = 2.0)]
    timeout: f64,
    /// The source address to use, which must be on this host
    #[arg(long)]
    from: Option<IpAddr>,
}

/// Standard output, a line at a time, from several threads.
#[derive(Clone)]
struct Lines;

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut output = io::stdout().lock();
        output.write_all(bytes)?;
        output.flush()?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when standard error is closed.
            let _ = writeln!(io::stderr(), "weir-lab-host: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Hold { name, logs } => hold::hold(&name, &logs),
        Command::Internet => internet(),
        Command::Serve {
            addresses,
            tcp,
            udp,
        } => serve::serve(&addresses, &tcp, &udp, Lines),
        Command::Tcp(ask) => {
            let answer = serve::ask_tcp(ask.server, ask.from, seconds(ask.timeout)?)?;
            Ok(writeln!(io::stdout(), "{answer}")?)
        }
        Command::Udp(ask) => {
            let answer = serve::ask_udp(ask.server, ask.from, seconds(ask.timeout)?)?;
            Ok(writeln!(io::stdout(), "{answer}")?)
        }
        Command::Talk { server, every } => serve::talk(server, Duration::from_millis(every)),
        Command::Transfer {
            server,
            bytes,
            idle,
        } => serve::transfer(server, bytes, seconds(idle)?),
        Command::Download { server, idle } => serve::download(server, seconds(idle)?, Lines),
    }
}

/// Builds the network, says how to enter its machines, and waits.
fn internet() -> Result<()> {
    let network = Internet::new()?;
    let mut output = io::stdout();
    for node in network.nodes() {
        writeln!(output, "{}: {}", node.name(), node.enter_command())?;
    }
    writeln!(output, "Ctrl-C ends it.")?;
    network.lab.keep_until_interrupted()
}

fn seconds(number: f64) -> Result<Duration> {
    Ok(Duration::try_from_secs_f64(number)?)
}
