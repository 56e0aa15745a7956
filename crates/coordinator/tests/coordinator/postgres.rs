//! A real PostgreSQL in a directory of its own: started by the first test that wants it, reachable
//! over a unix socket only, gone with this process.

use sqlx::{Connection, PgConnection, SqliteConnection, postgres::PgConnectOptions};
use std::{
    io::Write,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    str::FromStr,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};
use tempfile::TempDir;
use weir_coordinator::store::Database;

/// Where Debian keeps the programs of each version, which are on nobody's path.
const VERSIONS: &str = "/usr/lib/postgresql";
/// `nobody` and `nogroup` on Debian: the server refuses to run as root.
const NOBODY: u32 = 65534;
/// How long the server may take to come up on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs the server until the end of its standard input: when this process ends, however it does,
/// the server does, and its directory goes.
const KEEPER: &str = r#"
"$1" -D "$2/data" -k "$2" -c listen_addresses= -c log_min_messages=warning >"$2/log" 2>&1 &
read -r ending
if [ "$ending" = pull ]; then
    kill -QUIT "$!"
    wait "$!"
else
    kill -INT "$!"
    wait "$!"
    rm -rf "$2"
fi
"#;

/// A server of its own.
pub(crate) struct Cluster {
    programs: PathBuf,
    directory: TempDir,
    keeper: Option<Child>,
    databases: AtomicU32,
}

fn programs() -> PathBuf {
    let versions = std::fs::read_dir(VERSIONS)
        .unwrap_or_else(|error| panic!("{VERSIONS}: {error}: apt-get install postgresql"));
    versions
        .map(|entry| entry.unwrap().path().join("bin"))
        .filter(|directory| directory.join("initdb").exists())
        .max()
        .expect("apt-get install postgresql")
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

impl Cluster {
    /// Makes and starts one.
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let programs = programs();
        let root = is_root();
        if root {
            std::os::unix::fs::chown(directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let mut initdb = Command::new(programs.join("initdb"));
        initdb
            .args(["--username=weir", "--auth=trust", "--encoding=UTF8"])
            .args(["--locale=C.UTF-8", "--no-sync", "--pgdata"])
            .arg(directory.path().join("data"))
            .current_dir(directory.path());
        if root {
            initdb.uid(NOBODY).gid(NOBODY);
        }
        let made = initdb.output().unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let mut cluster = Self {
            programs,
            directory,
            keeper: None,
            databases: AtomicU32::new(0),
        };
        cluster.begin();
        cluster
    }

    fn begin(&mut self) {
        let mut keeper = Command::new("sh");
        keeper
            .args(["-c", KEEPER, "keeper"])
            .arg(self.programs.join("postgres"))
            .arg(self.directory.path())
            .current_dir(self.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        if is_root() {
            keeper.uid(NOBODY).gid(NOBODY);
        }
        self.keeper = Some(keeper.spawn().unwrap());
        let started = Instant::now();
        let ready = || {
            Command::new(self.programs.join("pg_isready"))
                .args(["--quiet", "--host"])
                .arg(self.directory.path())
                .status()
                .unwrap()
                .success()
        };
        while !ready() {
            assert!(started.elapsed() < DEADLINE, "{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends the server as if somebody pulled its plug, in the middle of whatever it does.
    pub(crate) fn pull_the_plug(&mut self) {
        let mut keeper = self.keeper.take().unwrap();
        keeper.stdin.take().unwrap().write_all(b"pull\n").unwrap();
        assert!(keeper.wait().is_ok());
    }

    /// Starts the server again on what it has on disk.
    pub(crate) fn plug_in(&mut self) {
        self.begin();
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn url(&self, database: &str) -> String {
        let host = self.directory.path().display();
        format!("postgres://weir@localhost/{database}?host={host}")
    }

    /// Makes an empty database and gives its URL.
    pub(crate) async fn database(&self) -> String {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let name = format!("test{number}");
        let options = PgConnectOptions::from_str(&self.url("postgres")).unwrap();
        let mut connection = PgConnection::connect_with(&options).await.unwrap();
        sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
        self.url(&name)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            // The end of its input is what it waits for.
            drop(keeper.stdin.take());
            keeper.wait().ok();
        }
    }
}

/// The server that tests share, each with a database of its own.
pub(crate) fn shared() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(Cluster::start)
}

/// An empty database of the shared server.
pub(crate) async fn database() -> Database {
    database_url().await.parse().unwrap()
}

/// The URL of an empty database of the shared server.
pub(crate) async fn database_url() -> String {
    let cluster = tokio::task::spawn_blocking(shared).await.unwrap();
    cluster.database().await
}

/// A file that does not exist yet.
pub(crate) fn file(directory: &Path) -> Database {
    Database::File(directory.join("a.db"))
}

/// Does something behind the coordinator's back.
pub(crate) async fn execute(database: &Database, statement: &'static str) {
    match database {
        Database::File(path) => {
            execute_at(&format!("sqlite://{}", path.display()), statement).await
        }
        Database::Postgres(options) => {
            let mut connection = PgConnection::connect_with(options).await.unwrap();
            let done = sqlx::query(statement).execute(&mut connection).await;
            done.unwrap();
        }
    }
}

/// The same to a SQLite file, by URL.
pub(crate) async fn execute_at(url: &str, statement: &'static str) {
    let mut connection = SqliteConnection::connect(url).await.unwrap();
    let done = sqlx::query(statement).execute(&mut connection).await;
    done.unwrap();
    connection.close().await.unwrap();
}
