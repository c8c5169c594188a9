//! Each server, asked as the agent's probes ask it: is it there, does it let us in, may we look, is it set up for failover.

use std::net::SocketAddr;
use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use shunt_core::ClusterName;
use shunt_core::observation::Flavour;

use super::{Aims, Finding, grants, promoting, sessions, settings};
use crate::config::Credentials;
use crate::probe::{self, ProbeSpec};

/// A server and how to get in.
#[derive(Clone, Debug)]
pub struct Login {
    pub cluster: ClusterName,
    pub server: SocketAddr,
    /// As the configuration writes it.
    pub label: String,
    pub credentials: Credentials,
    pub timeout: Duration,
    /// In a cluster whose servers shunt promotes.
    pub promoting: Option<Aims>,
}

/// The findings on every server, in the order given. Servers are asked side by side.
pub async fn servers(logins: Vec<Login>) -> Vec<Finding> {
    let mut asked = tokio::task::JoinSet::new();
    for (place, login) in logins.into_iter().enumerate() {
        asked.spawn(async move { (place, server(&login).await) });
    }
    let mut found = asked.join_all().await;
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().flat_map(|(_, findings)| findings).collect()
}

async fn server(login: &Login) -> Vec<Finding> {
    let name = format!("{} of {}", login.label, login.cluster);
    let user = &login.credentials.user;
    let spec = ProbeSpec {
        server: login.server,
        user: user.clone(),
        password: login.credentials.password.clone(),
        interval: login.timeout,
        timeout: login.timeout,
        promotes: false,
    };
    let mut conn = match probe::connect(spec).await {
        Ok(conn) => conn,
        Err(failure) => {
            let advice = if failure.kind.is_alive() {
                format!("it is alive: create the user `{user}`, see README, and check the password file")
            } else {
                "check that it runs, its address, and the way from here to it".to_owned()
            };
            return vec![Finding::problem("login", format!("{name}: {}", failure.detail), advice)];
        }
    };
    let mut found = vec![Finding::ok("login", format!("{name}: {user} logs in"))];
    match tokio::time::timeout(login.timeout * 3, look(&mut conn, &name, login.promoting)).await {
        Ok(Ok(more)) => found.extend(more),
        Ok(Err(error)) => {
            found.push(Finding::problem("login", format!("{name}: {error}"), "see the server's error log"));
        }
        Err(_) => {
            found.push(Finding::warning("login", format!("{name} answers too slowly to be examined"), "try again"));
        }
    }
    found
}

async fn look(conn: &mut Conn, name: &str, promoting: Option<Aims>) -> Result<Vec<Finding>, mysql_async::Error> {
    let version: String = conn.query_first("SELECT @@version").await?.unwrap_or_default();
    let flavour = if version.contains("MariaDB") { Flavour::Mariadb } else { Flavour::Mysql };
    let lines: Vec<String> = conn.query("SHOW GRANTS").await?;
    let heartbeat = settings::heartbeat(conn, flavour).await;
    let mut found = Vec::new();
    if let Some(aims) = promoting {
        let current_user: String = conn.query_first("SELECT CURRENT_USER()").await?.unwrap_or_default();
        found.push(promoting::grants(flavour, name, &current_user, &lines));
        if aims.applies {
            found.extend(promoting::applying(flavour, name, &version, &current_user, &lines));
        }
        found.extend(settings::look(conn, flavour, name, heartbeat).await?);
        found.extend(promoting::look(conn, flavour, name, aims, heartbeat.is_some()).await?);
        if flavour == Flavour::Mariadb {
            found.extend(sessions::look(conn, name, &current_user).await?);
        }
    } else {
        found.push(grants::judge(flavour, name, &lines));
        found.extend(settings::look(conn, flavour, name, heartbeat).await?);
    }
    Ok(found)
}
