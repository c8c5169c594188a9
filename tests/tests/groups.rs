//! scratch
use anyhow::Result;
use shunt_tests::{Flavour, Lan, galera, group, skip};

fn dump(s: &shunt_tests::Server, q: &str) {
    eprintln!("{}: {:?}", s.name(), s.sql(q));
}

const M: &str = "SELECT RIGHT(MEMBER_ID,4), MEMBER_HOST, MEMBER_STATE, MEMBER_ROLE FROM performance_schema.replication_group_members";
const S: &str = "SELECT RIGHT(MEMBER_ID,4), VIEW_ID, COUNT_TRANSACTIONS_IN_QUEUE, COUNT_TRANSACTIONS_CHECKED, COUNT_TRANSACTIONS_REMOTE_IN_APPLIER_QUEUE, COUNT_TRANSACTIONS_REMOTE_APPLIED FROM performance_schema.replication_group_member_stats";

#[test]
fn explore_gr() -> Result<()> {
    skip::with_server("explore_gr", Flavour::Mysql, |install| {
        let lan = Lan::new()?;
        let t = std::time::Instant::now();
        let mut c = group::start(&lan, install, 3)?;
        eprintln!("group in {:?}", t.elapsed());
        for i in 0..5 {
            c.server(0).sql(&format!("INSERT INTO app.t (note) VALUES ('{i}')"))?;
        }
        for s in c.servers() {
            dump(s, M);
            dump(s, S);
            dump(s, "SELECT @@super_read_only");
        }
        let (a, b) = (c.servers()[1].host(), c.servers()[2].host());
        c.servers()[0].host().cut_all(&[a, b])?;
        let t = std::time::Instant::now();
        let mut last = Vec::new();
        while t.elapsed().as_secs() < 20 {
            let now: Vec<String> = c
                .servers()
                .iter()
                .map(|s| {
                    format!(
                        "{:?} {:?}",
                        s.sql(M).map_err(|e| e.to_string()),
                        s.value("SELECT CONCAT(@@super_read_only,@@read_only)").unwrap_or_default()
                    )
                })
                .collect();
            if now != last {
                eprintln!("{:?}:", t.elapsed());
                for n in &now {
                    eprintln!("   {n}");
                }
                last = now;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        c.servers()[0].host().heal()?;
        eprintln!("healed");
        let t = std::time::Instant::now();
        while t.elapsed().as_secs() < 40 {
            let now: Vec<String> = c
                .servers()
                .iter()
                .map(|s| {
                    format!(
                        "{:?} {:?}",
                        s.sql(M).map_err(|e| e.to_string()),
                        s.value("SELECT CONCAT(@@super_read_only,@@read_only)").unwrap_or_default()
                    )
                })
                .collect();
            if now != last {
                eprintln!("{:?}:", t.elapsed());
                for n in &now {
                    eprintln!("   {n}");
                }
                last = now;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let _ = &mut c;
        Ok(())
    })
}

#[test]
fn explore_galera() -> Result<()> {
    skip::with_server("explore_galera", Flavour::Mariadb, |install| {
        let lan = Lan::new()?;
        let t = std::time::Instant::now();
        let mut c = galera::start(&lan, install, 3)?;
        eprintln!("galera in {:?}", t.elapsed());
        for i in 0..5 {
            c.server(0).sql(&format!("INSERT INTO app.t (note) VALUES ('{i}')"))?;
        }
        for s in c.servers() {
            dump(s, "SELECT COUNT(*) FROM app.t");
            dump(s, "SHOW GLOBAL STATUS LIKE 'wsrep%'");
        }
        let st = "SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_cluster_status','wsrep_ready','wsrep_local_state','wsrep_cluster_size','wsrep_incoming_addresses','wsrep_cluster_conf_id','wsrep_connected')";
        let (a, b) = (c.servers()[1].host(), c.servers()[2].host());
        c.servers()[0].host().cut_all(&[a, b])?;
        let t = std::time::Instant::now();
        let mut last = Vec::new();
        let show = |s: &shunt_tests::Server| {
            format!(
                "{:?} | {:?} | {:?}",
                s.sql(st)
                    .map(|r| r.into_iter().map(|l| l[1].clone().unwrap_or_default()).collect::<Vec<_>>())
                    .map_err(|e| e.to_string()),
                s.value("SELECT @@global.gtid_current_pos").map_err(|e| format!("{e:#}")),
                s.value("SELECT COUNT(*) FROM app.t").map_err(|e| format!("{e:#}"))
            )
        };
        while t.elapsed().as_secs() < 20 {
            let now: Vec<String> = c.servers().iter().map(show).collect();
            if now != last {
                eprintln!("{:?}:", t.elapsed());
                for n in &now {
                    eprintln!("   {n}");
                }
                last = now;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        c.servers()[0].host().heal()?;
        let t = std::time::Instant::now();
        while t.elapsed().as_secs() < 20 {
            let now: Vec<String> = c.servers().iter().map(show).collect();
            if now != last {
                eprintln!("healed {:?}:", t.elapsed());
                for n in &now {
                    eprintln!("   {n}");
                }
                last = now;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        c.server(1).sql("SET GLOBAL wsrep_desync=ON")?;
        eprintln!("{}", show(&c.servers()[1]));
        c.server(1).sql("SET GLOBAL wsrep_desync=OFF")?;
        c.server(0).kill()?;
        let t = std::time::Instant::now();
        while t.elapsed().as_secs() < 10 {
            let now: Vec<String> = c.servers()[1..].iter().map(show).collect();
            if now != last {
                eprintln!("killed {:?}:", t.elapsed());
                for n in &now {
                    eprintln!("   {n}");
                }
                last = now;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Ok(())
    })
}
