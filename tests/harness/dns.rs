//! A DNS server of the tests' own: it answers for the whole tree, over UDP and TCP.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hickory_server::Server;
use hickory_server::proto::rr::rdata::{CNAME, SOA, TXT};
use hickory_server::proto::rr::{LowerName, Name, RData, Record, RecordSet, RecordType, RrKey};
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneType};
use tokio::net::{TcpListener, UdpSocket};

pub struct Dns {
    pub address: SocketAddr,
    zone: Arc<InMemoryZoneHandler>,
    serial: AtomicU32,
    server: Server<Catalog>,
}

impl Dns {
    pub async fn start() -> Self {
        let (root, nobody) = (Name::root(), Name::from_str("nobody.example.").unwrap());
        let soa = RData::SOA(SOA::new(nobody.clone(), nobody, 1, 3600, 600, 86400, 0));
        let mut records = RecordSet::new(root.clone(), RecordType::SOA, 1);
        records.insert(Record::from_rdata(root.clone(), 60, soa), 1);
        let key = RrKey::new(LowerName::new(&root), RecordType::SOA);
        let records = BTreeMap::from([(key, records)]);
        let zone =
            InMemoryZoneHandler::new(root.clone(), records, ZoneType::Primary, AxfrPolicy::Deny);
        let zone = Arc::new(zone.unwrap());
        let mut catalog = Catalog::new();
        catalog.upsert(LowerName::new(&root), vec![Arc::clone(&zone) as _]);

        let (tcp, udp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
                break (tcp, udp);
            }
        };
        let address = udp.local_addr().unwrap();
        let mut server = Server::new(catalog);
        server.register_socket(udp);
        server.register_listener(tcp, Duration::from_secs(5), 4096);
        Self { address, zone, serial: AtomicU32::new(2), server }
    }

    /// Publishes a text, beside those that are there.
    pub async fn publish(&self, name: &str, text: &str) {
        self.add(name, RData::TXT(TXT::new(vec![text.to_owned()]))).await;
    }

    /// Lets a name stand for another.
    pub async fn delegate(&self, name: &str, to: &str) {
        self.add(name, RData::CNAME(CNAME(Name::from_str(&format!("{to}.")).unwrap()))).await;
    }

    async fn add(&self, name: &str, data: RData) {
        let name = Name::from_str(&format!("{name}.")).unwrap();
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        assert!(self.zone.upsert(Record::from_rdata(name, 60, data), serial).await);
    }

    /// Answers nobody any more.
    pub async fn stop(&mut self) {
        self.server.shutdown_gracefully().await.unwrap();
    }
}
