//! The servers that people put behind Landfall, as Debian packages them: each a child in the foreground, on an address of a
//! namespace, with all it writes in one directory.

use std::fmt::Display;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::lab::Namespace;
use crate::process::Process;
use crate::{Failure, Result};

/// The name that the servers' certificate is for.
pub const SERVER_NAME: &str = "play.example";

/// Answers every OPTIONS with this status line.
const SIP_SCENARIO: &str = r#"<?xml version="1.0" encoding="us-ascii"?>
<scenario name="options">
  <recv request="OPTIONS"/>
  <send><![CDATA[
SIP/2.0 {status}
[last_Via:]
[last_From:]
[last_To:];tag=[call_number]
[last_Call-ID:]
[last_CSeq:]
Content-Length: 0

  ]]></send>
</scenario>
"#;

/// What makes the engine OpenArena, as Debian's own scripts set it: its protocol is an old one by a number of its own.
const OPENARENA: [(&str, &str); 4] =
    [("com_basegame", "baseoa"), ("com_protocol", "71"), ("com_legacyprotocol", "71"), ("ttycon", "0")];

/// A namespace and a directory for the servers in it.
pub struct Field<'a> {
    namespace: &'a Namespace,
    directory: &'a Path,
}

/// What carries SIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SipTransport {
    /// Datagrams.
    Udp,
    /// Streams.
    Tcp,
}

impl<'a> Field<'a> {
    /// Makes a certificate authority, `ca.pem`, and a certificate for [`SERVER_NAME`] in `directory`.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn new(namespace: &'a Namespace, directory: &'a Path) -> Result<Self> {
        let field = Self { namespace, directory };
        let (ca, certificate, key) = certificates().map_err(|error| field.cannot("make", "certificates", error))?;
        for (name, text) in [("ca.pem", ca), ("server.pem", certificate), ("server.key", key)] {
            field.write(name, &text)?;
        }
        Ok(field)
    }

    /// nginx: HTTP on `127.0.0.1:8080` and HTTPS on `127.0.0.1:8443`, with `/health` and nothing else.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn nginx(&self) -> Result<Process> {
        let directory = self.directory.display();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {directory}/nginx-{kind};\n"))
            .concat();
        // One process, so that a signal stops all of it.
        let config = self.write(
            "nginx.conf",
            &format!(
                "daemon off;\nmaster_process off;\npid {directory}/nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n\
                 {temporary}access_log off;\nssl_certificate {directory}/server.pem;\nssl_certificate_key {directory}/server.key;\n\
                 server {{\nlisten 127.0.0.1:8080;\nlisten 127.0.0.1:8443 ssl;\n\
                 location = /health {{ return 200 \"all well\"; }}\nlocation / {{ return 404; }}\n}}\n}}\n"
            ),
        )?;
        self.spawn("/usr/sbin/nginx", ["-e", "stderr", "-c", &config])
    }

    /// The ngtcp2 server, on GnuTLS: HTTP/3 on `127.0.0.1:4433`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn ngtcp2(&self) -> Result<Process> {
        let file = |name| self.path(name).display().to_string();
        self.spawn("/usr/sbin/gtlsserver", ["-q", "127.0.0.1", "4433", &file("server.key"), &file("server.pem")])
    }

    /// coturn: STUN on `127.0.0.1:3478`, UDP and TCP.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn coturn(&self) -> Result<Process> {
        let file = |name| self.path(name).display().to_string();
        let (database, pid) = (file("turndb"), file("turn.pid"));
        let options =
            ["-n", "-L", "127.0.0.1", "-p", "3478", "-m", "1", "--no-tls", "--no-dtls", "--no-cli", "--log-file", "stdout"];
        self.spawn("/usr/bin/turnserver", options.into_iter().chain(["-b", &database, "--pidfile", &pid]))
    }

    /// SIPp: answers OPTIONS with `status` on `127.0.0.1:port`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn sipp(&self, port: u16, transport: SipTransport, status: &str) -> Result<Process> {
        let scenario = self.write(&format!("sipp-{port}.xml"), &SIP_SCENARIO.replace("{status}", status))?;
        let mode = match transport {
            SipTransport::Udp => "u1",
            SipTransport::Tcp => "t1",
        };
        self.spawn("/usr/bin/sipp", ["-sf", &scenario, "-i", "127.0.0.1", "-p", &port.to_string(), "-t", mode, "-nostdin"])
    }

    /// Mosquitto: for everybody on `127.0.0.1:1883`, for nobody on `127.0.0.1:1884`. Its log tells who comes and goes.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn mosquitto(&self) -> Result<Process> {
        let config = self.write(
            "mosquitto.conf",
            "user root\nlog_dest stdout\nlog_type all\nper_listener_settings true\n\
             listener 1883 127.0.0.1\nallow_anonymous true\nlistener 1884 127.0.0.1\nallow_anonymous false\n",
        )?;
        self.spawn("/usr/sbin/mosquitto", ["-c", &config])
    }

    /// unbound on port 53 of `address`, UDP and TCP: knows `field.example`, asks nobody, and refuses the client `refused`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn unbound(&self, address: IpAddr, refused: Option<IpAddr>) -> Result<Process> {
        let refuse = refused.map(|client| format!("access-control: {client} refuse")).unwrap_or_default();
        let config = self.write(
            "unbound.conf",
            &format!(
                "server:\n  interface: {address}@53\n  do-daemonize: no\n  use-syslog: no\n  logfile: \"\"\n  username: \"\"\n  \
                 chroot: \"\"\n  directory: \"{}\"\n  pidfile: \"\"\n  num-threads: 1\n  module-config: \"iterator\"\n  \
                 access-control: 0.0.0.0/0 allow\n  access-control: ::/0 allow\n  {refuse}\n  local-zone: \".\" static\n  \
                 local-data: \"field.example. A 192.0.2.1\"\nremote-control:\n  control-enable: no\n",
                self.directory.display()
            ),
        )?;
        self.spawn("/usr/sbin/unbound", ["-d", "-c", &config])
    }

    /// OpenArena on port 27960 of `address`, unknown to any master server. It heeds all that a player says, however fast it comes.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn openarena(&self, address: IpAddr) -> Result<Process> {
        let (home, address, v6) = (self.path("openarena").display().to_string(), address.to_string(), address.is_ipv6());
        // The families that it serves, as bits, and the address and port of each.
        let (families, ip, port) = if v6 { ("2", "net_ip6", "net_port6") } else { ("1", "net_ip", "net_port") };
        let settings = [
            ("fs_basepath", "/usr/lib/openarena-server"),
            ("fs_homepath", &home),
            // 1 is a server of the local network; 2 would announce itself.
            ("dedicated", "1"),
            ("net_enabled", families),
            (ip, &address),
            (port, "27960"),
            ("sv_floodProtect", "0"),
        ];
        let words = OPENARENA.iter().chain(&settings).flat_map(|(name, value)| ["+set", name, value]).chain(["+map", "oa_dm1"]);
        self.spawn("/usr/lib/ioquake3/ioq3ded", words)
    }

    /// A player of OpenArena, who joins the server at `address`, and whose commands come from standard input. What is to be seen is drawn, small
    /// and plain, but on no display.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn openarena_player(&self, name: &str, address: SocketAddr) -> Result<Process> {
        let (home, address) = (self.path(name).display().to_string(), address.to_string());
        let families = if address.starts_with('[') { "2" } else { "1" };
        let settings = [
            ("fs_basepath", "/usr/lib/openarena"),
            ("fs_homepath", &home),
            ("net_enabled", families),
            ("name", name),
            ("cl_motd", "0"),
            ("s_initsound", "0"),
            ("cl_renderer", "opengl1"),
            ("r_mode", "-1"),
            ("r_customwidth", "160"),
            ("r_customheight", "120"),
            ("r_picmip", "6"),
            ("r_vertexLight", "1"),
            ("com_maxfps", "20"),
        ];
        let words = OPENARENA.iter().chain(&settings).flat_map(|(name, value)| ["+set", name, value]);
        let mut command = self.command("/usr/lib/ioquake3/ioquake3", words.chain(["+connect", &address]));
        command.env("SDL_VIDEODRIVER", "offscreen").env("LP_NUM_THREADS", "0");
        Process::spawn_with_stdin(Some(self.namespace), command)
    }

    /// A file of the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<String> {
        let path = self.path(name);
        fs::write(&path, text).map_err(|error| self.cannot("write", name, error))?;
        Ok(path.display().to_string())
    }

    fn spawn<'w>(&self, program: &str, words: impl IntoIterator<Item = &'w str>) -> Result<Process> {
        self.namespace.spawn(self.command(program, words))
    }

    fn command<'w>(&self, program: &str, words: impl IntoIterator<Item = &'w str>) -> Command {
        let mut command = Command::new(program);
        command.args(words).current_dir(self.directory).env("HOME", self.directory).env("TERM", "dumb");
        command
    }

    fn cannot(&self, operation: &str, subject: &str, cause: impl Display) -> Failure {
        Failure::new(operation, format_args!("{subject} in {}", self.directory.display()), cause, "make room on the disk")
    }
}

/// The authority's certificate, the server's, and the server's key, as PEM.
fn certificates() -> std::result::Result<(String, String, String), rcgen::Error> {
    let (ca_key, key) = (KeyPair::generate()?, KeyPair::generate()?);
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let server = CertificateParams::new(vec![SERVER_NAME.to_owned()])?;
    let certificate = server.signed_by(&key, &Issuer::new(ca, ca_key))?;
    Ok((ca_pem, certificate.pem(), key.serialize_pem()))
}
