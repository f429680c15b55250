//! A table of cases, each run on a direct connection and through an edge.

use std::net::{SocketAddr, TcpListener, TcpStream};

use super::{LIMIT, Notes, Role, Seen, Side};

/// What happens between two ends that are connected. Returns the notes of the actor and of the other.
pub type Act = fn(Side, Side) -> [Notes; 2];
/// As [`Act`], from before the connection on. Returns the notes of the client and of the server.
pub type Whole = fn(&Way) -> [Notes; 2];

/// Who does what.
pub enum Script {
    /// With the client as the actor, then with the server.
    Each(Act),
    /// With the client as the actor.
    Once(Act),
    /// With whoever connects.
    Whole(Whole),
}

/// One line of the table.
pub struct Case {
    /// What happens, in words.
    pub name: &'static str,
    /// What happens.
    pub script: Script,
    /// Why it is not the same through a proxy; nothing if it is to be the same.
    pub differs: Option<Difference>,
}

/// What a proxy cannot but do differently.
pub struct Difference {
    /// The reason, in words.
    pub why: &'static str,
    /// What the actor (or the client) and the other hear instead, whatever they say.
    pub hear: [&'static [Seen]; 2],
}

/// A case for both roles, the same through the edge.
pub const fn each(name: &'static str, act: Act) -> Case {
    Case { name, script: Script::Each(act), differs: None }
}

/// A case in which the client is the actor, the same through the edge.
pub const fn once(name: &'static str, act: Act) -> Case {
    Case { name, script: Script::Once(act), differs: None }
}

/// A case about the beginning of a connection, the same through the edge.
pub const fn whole(name: &'static str, whole: Whole) -> Case {
    Case { name, script: Script::Whole(whole), differs: None }
}

/// One way to the server.
pub struct Way<'a> {
    target: SocketAddr,
    listener: &'a TcpListener,
}

impl Way<'_> {
    /// The server's end of the next connection.
    ///
    /// # Panics
    /// When there is none.
    pub fn accept(&self) -> Side {
        self.listener
            .accept()
            .and_then(|(stream, _)| Side::new(stream, Role::Server))
            .unwrap_or_else(|error| panic!("no server: {error}"))
    }

    /// The client's end of a new connection.
    ///
    /// # Panics
    /// When nobody accepts it.
    pub fn connect(&self) -> Side {
        let connected = TcpStream::connect_timeout(&self.target, LIMIT).and_then(|stream| Side::new(stream, Role::Client));
        connected.unwrap_or_else(|error| panic!("no client: {error}"))
    }

    /// Both ends, after a word each way, so that everything on the way between them is connected too.
    fn pair(&self) -> (Side, Side) {
        let (client, server) = (self.connect(), self.accept());
        for (from, to) in [(&server, &client), (&client, &server)] {
            from.says(1);
            to.hears(1);
        }
        (client, server)
    }

    fn run(&self, script: &Script) -> Vec<[Notes; 2]> {
        match script {
            Script::Once(act) => {
                let (client, server) = self.pair();
                vec![act(client, server)]
            }
            Script::Each(act) => {
                let (client, server) = self.pair();
                let first = act(client, server);
                let (client, server) = self.pair();
                vec![first, act(server, client)]
            }
            Script::Whole(whole) => vec![whole(self)],
        }
    }
}

/// Runs every case straight to the server behind `listener`, and through the edge at `through`. Fails once all have run, so that one run
/// tells all.
///
/// # Panics
/// When a case is not seen alike, or not as its difference says.
pub fn hold(table: &[Case], listener: &TcpListener, through: SocketAddr) {
    let direct = listener.local_addr().unwrap_or_else(|error| panic!("no server: {error}"));
    let mut failures = Vec::new();
    for case in table {
        let [direct, through] = [direct, through].map(|target| Way { target, listener }.run(&case.script));
        println!("{}: directly {direct:?}", case.name);
        let equal = match &case.differs {
            None => direct == through,
            Some(Difference { why, hear }) => {
                println!("{}: through the edge it differs, because {why}: {through:?}", case.name);
                through.iter().all(|notes| [0, 1].iter().all(|&end| notes[end].listening.ends_with(hear[end])))
            }
        };
        if !equal {
            failures.push(format!("{}\n  directly         {direct:?}\n  through the edge {through:?}", case.name));
        }
    }
    assert!(failures.is_empty(), "{} of {} cases differ:\n{}", failures.len(), table.len(), failures.join("\n"));
}
