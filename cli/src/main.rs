//! The binary `penstock`; under the name `kubectl-penstock` it is a plugin of kubectl.

use std::process::ExitCode;

use clap::Parser;
use penstock::args::{Arguments, CacheCommand, CacheNode, Command};
use penstock::plugin::{PluginArguments, PluginCommand};
use penstock::{commands, out, plugin};
use tracing_subscriber::EnvFilter;

/// What is asked for: of this machine, or of a cluster.
enum Asked {
    Here(Command),
    Cluster(PluginCommand),
}

fn main() -> ExitCode {
    let asked = if std::env::args_os()
        .next()
        .is_some_and(|program| plugin::is_called(&program))
    {
        Asked::Cluster(PluginArguments::parse().command)
    } else {
        Asked::Here(Arguments::parse().command)
    };
    let filter = EnvFilter::try_from_env("PENSTOCK_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .init();
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Into::into)
        .and_then(|runtime| {
            let outcome = runtime.block_on(run(asked));
            // A listing that was interrupted may still wait for its origin.
            runtime.shutdown_background();
            outcome
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if out::is_reader_gone(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("penstock: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(asked: Asked) -> anyhow::Result<()> {
    let command = match asked {
        Asked::Here(command) => command,
        Asked::Cluster(command) => return plugin::run(&command),
    };
    match command {
        Command::Mount(arguments) => commands::mount::run(arguments).await,
        Command::Mounts(arguments) => commands::mounts::run(&arguments),
        Command::Check(which) => commands::check::run(which).await,
        Command::Ls(arguments) => commands::ls::run(arguments).await,
        Command::Stat(arguments) => commands::stat::run(arguments).await,
        Command::Cat(arguments) => commands::cat::run(arguments).await,
        Command::Status(arguments) => commands::status::run(arguments),
        Command::Doctor(arguments) => commands::doctor::run(arguments).await,
        Command::Cache(CacheNode { command }) => match command {
            CacheCommand::Ls(arguments) => commands::cache::ls::run(arguments).await,
            CacheCommand::Stat(arguments) => commands::cache::stat::run(arguments).await,
            CacheCommand::Files(arguments) => commands::cache::files::run(arguments).await,
            CacheCommand::Evict(arguments) => commands::cache::evict::run(arguments).await,
            CacheCommand::Verify(arguments) => commands::cache::verify::run(arguments).await,
        },
        Command::Explain(arguments) => commands::explain::run(arguments).await,
    }
}
