//! How long reports are kept.

use super::audited;
use crate::harness::Fleet;

#[tokio::test]
async fn old_reports_are_forgotten_but_for_the_newest_of_each_kind() {
    let fleet = Fleet::start().await;
    fleet.create_tenant("acme").await;
    audited(&fleet).await;
    let catalog = fleet.admin("tenantry").await;
    // Of the fleet by two, of two choices of tenants, each twice; the older ones are of no use to anybody.
    catalog
        .batch_execute(
            "insert into audits
             select gen_random_uuid(), now() - days, now() - days, who, true, tenants = '[]', 0, 0, 0, 0,
                    jsonb_build_object('tenants', tenants, 'age', extract(days from days))
             from (values ('test', '[]'::jsonb), ('audit schedule', '[]'), ('test', '[\"acme\"]'), ('test', '[\"b\"]'))
                  v (who, tenants),
                  (values (interval '89 days'), (interval '91 days'), (interval '300 days')) ages (days)
             where who = 'test' and tenants = '[]' or days > interval '90 days'",
        )
        .await
        .unwrap();

    audited(&fleet).await;

    let rows = catalog
        .query(
            "select requested_by || (report -> 'tenants')::text || coalesce(report ->> 'age', '') from audits order by 1",
            &[],
        )
        .await
        .unwrap();
    let kept: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(
        kept,
        ["audit schedule[]91", "test[\"acme\"]91", "test[\"b\"]91", "test[]", "test[]", "test[]89"]
    );
}
