// A small real HDFS for tests: a NameNode, or two of which one is active, and a DataNode in one process.
//
//   MiniHdfs FOLDER IP RPC-PORT HTTP-PORT [RPC-PORT HTTP-PORT] [kerberos KRB5.CONF PRINCIPAL KEYTAB PROTECTION]
//
// With Kerberos all servers are the principal, who is the superuser, and PROTECTION (authentication, integrity or privacy) is that of
// what they say and of blocks.
//
// The folder is an absolute path; it is empty or not there yet, and all that is written is in it. Everything
// listens on that address of the machine, and says so to clients. It prints "up" when files can be written, and then obeys the
// lines of its standard input, whose words are parted by tabs. It answers each line by "done" or by "error" and why:
//
//   put FILE PATH      makes the file PATH of HDFS equal to a local file, in blocks of 1 MiB
//   append FILE PATH   adds a local file to it
//   rm PATH            removes it, with what is in it
//   mv PATH PATH       renames it
//   own USER MODE PATH gives it to a user, with these permissions in octal
//   active N           makes NameNode N (0 or 1) the active one
//
// It ends when its standard input does.

import java.io.BufferedReader;
import java.io.File;
import java.io.FileInputStream;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.io.PrintStream;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.FileUtil;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.permission.FsPermission;
import org.apache.hadoop.ha.HAServiceProtocol.RequestSource;
import org.apache.hadoop.ha.HAServiceProtocol.StateChangeRequestInfo;
import org.apache.hadoop.hdfs.DistributedFileSystem;
import org.apache.hadoop.hdfs.protocol.HdfsConstants.DatanodeReportType;
import org.apache.hadoop.hdfs.server.datanode.DataNode;
import org.apache.hadoop.hdfs.server.namenode.EditLogFileOutputStream;
import org.apache.hadoop.hdfs.server.namenode.NameNode;
import org.apache.hadoop.metrics2.lib.DefaultMetricsSystem;
import org.apache.hadoop.security.UserGroupInformation;

public final class MiniHdfs {
    /** What clients call the two NameNodes together. */
    private static final String NAMESERVICE = "penstock";

    private final List<NameNode> nameNodes = new ArrayList<>();
    private DataNode dataNode;
    private DistributedFileSystem files;

    public static void main(String[] args) throws Exception {
        // Its web servers unpack themselves, and nobody would clear that away.
        File temporary = new File(args[0], "temporary");
        temporary.mkdirs();
        System.setProperty("java.io.tmpdir", temporary.getPath());
        PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
        try {
            List<String> rest = List.of(args).subList(2, args.length);
            int ports = rest.contains("kerberos") ? rest.indexOf("kerberos") : rest.size();
            List<String> kerberos = rest.subList(Math.min(ports + 1, rest.size()), rest.size());
            MiniHdfs hdfs = new MiniHdfs(new File(args[0]), args[1], rest.subList(0, ports), kerberos);
            out.println("up");
            hdfs.obey(new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8)), out);
        } catch (Throwable fault) {
            out.println(error(fault));
        }
        // Not in order: nothing of it is needed any more, and HDFS takes seconds to end.
        Runtime.getRuntime().halt(0);
    }

    private MiniHdfs(File folder, String ip, List<String> ports, List<String> kerberos) throws Exception {
        // Two servers of a kind in one process count under names of their own.
        DefaultMetricsSystem.setMiniClusterMode(true);
        // What a test has in HDFS needs not survive the machine.
        EditLogFileOutputStream.setShouldSkipFsyncForTesting(true);
        boolean two = ports.size() > 2;
        Configuration all = two ? ofTwo(folder, ip, ports) : ofOne(ip, ports);
        addWhatTheyShare(all, folder, ip);
        if (!kerberos.isEmpty()) {
            addKerberos(all, kerberos.get(0), kerberos.get(1), kerberos.get(2), kerberos.get(3));
        }
        for (int number = 0; number < ports.size() / 2; number++) {
            startNameNode(all, folder, number, two);
        }
        if (two) {
            makeActive(0);
        }
        dataNode = DataNode.createDataNode(new String[] {}, new Configuration(all));
        files = (DistributedFileSystem) FileSystem.get(all);
        while (files.getDataNodeStats(DatanodeReportType.LIVE).length == 0) {
            Thread.sleep(20);
        }
    }

    private static Configuration ofOne(String ip, List<String> ports) {
        Configuration conf = new Configuration();
        conf.set("fs.defaultFS", "hdfs://" + ip + ":" + ports.get(0));
        conf.set("dfs.namenode.rpc-address", ip + ":" + ports.get(0));
        conf.set("dfs.namenode.http-address", ip + ":" + ports.get(1));
        return conf;
    }

    private static Configuration ofTwo(File folder, String ip, List<String> ports) {
        Configuration conf = new Configuration();
        conf.set("fs.defaultFS", "hdfs://" + NAMESERVICE);
        conf.set("dfs.nameservices", NAMESERVICE);
        conf.set("dfs.ha.namenodes." + NAMESERVICE, "nn0,nn1");
        for (int number = 0; number < 2; number++) {
            String of = NAMESERVICE + ".nn" + number;
            conf.set("dfs.namenode.rpc-address." + of, ip + ":" + ports.get(2 * number));
            conf.set("dfs.namenode.http-address." + of, ip + ":" + ports.get(2 * number + 1));
        }
        conf.set("dfs.client.failover.proxy.provider." + NAMESERVICE,
            "org.apache.hadoop.hdfs.server.namenode.ha.ConfiguredFailoverProxyProvider");
        conf.set("dfs.namenode.shared.edits.dir", new File(folder, "edits").toURI().toString());
        conf.setInt("dfs.ha.tail-edits.period", 1);
        return conf;
    }

    private static void addWhatTheyShare(Configuration conf, File folder, String ip) {
        conf.set("hadoop.tmp.dir", new File(folder, "temporary").getPath());
        conf.set("dfs.datanode.data.dir", new File(folder, "data").toURI().toString());
        for (String server : List.of("dfs.datanode.address", "dfs.datanode.http.address", "dfs.datanode.ipc.address")) {
            conf.set(server, ip + ":0");
        }
        // It is known by its address, because there are no names where the tests run.
        conf.set("dfs.datanode.hostname", ip);
        conf.setBoolean("dfs.namenode.datanode.registration.ip-hostname-check", false);
        conf.setInt("dfs.replication", 1);
        conf.setInt("dfs.heartbeat.interval", 1);
        conf.setInt("dfs.namenode.safemode.extension", 0);
        // A file that is closed waits so long for the DataNode's report, and 400 ms otherwise.
        conf.setInt("dfs.client.block.write.locateFollowingBlock.initial.delay.ms", 10);
        // Small blocks, so that a small file has several; and no free space is kept, because the disk is not only ours.
        conf.setInt("dfs.blocksize", 1 << 20);
        conf.setInt("dfs.namenode.fs-limits.min-block-size", 1);
        conf.setLong("dfs.datanode.du.reserved", 0);
    }

    private static void addKerberos(Configuration conf, String krb5, String principal, String keytab, String protection)
            throws Exception {
        System.setProperty("java.security.krb5.conf", krb5);
        conf.set("hadoop.security.authentication", "kerberos");
        conf.set("hadoop.rpc.protection", protection);
        conf.set("dfs.data.transfer.protection", protection);
        conf.setBoolean("dfs.block.access.token.enable", true);
        // Ports are not those that only root can have, and nobody reads by the web.
        conf.setBoolean("ignore.secure.ports.for.testing", true);
        for (String server : List.of("dfs.namenode", "dfs.datanode")) {
            conf.set(server + ".kerberos.principal", principal);
            conf.set(server + ".keytab.file", keytab);
        }
        conf.set("dfs.web.authentication.kerberos.principal", principal);
        conf.set("dfs.web.authentication.kerberos.keytab", keytab);
        UserGroupInformation.setConfiguration(conf);
        UserGroupInformation.loginUserFromKeytab(principal, keytab);
    }

    private void startNameNode(Configuration all, File folder, int number, boolean two) throws Exception {
        Configuration conf = new Configuration(all);
        conf.set("dfs.namenode.name.dir", nameFolder(folder, number).toURI().toString());
        if (two) {
            conf.set("dfs.ha.namenode.id", "nn" + number);
        }
        if (number == 0) {
            NameNode.format(conf);
        } else {
            Path copied = new Path(nameFolder(folder, number).toURI());
            FileUtil.copy(nameFolder(folder, 0), FileSystem.getLocal(conf), copied, false, conf);
            new File(nameFolder(folder, number), "in_use.lock").delete();
        }
        nameNodes.add(NameNode.createNameNode(new String[] {}, conf));
    }

    private static File nameFolder(File folder, int number) {
        return new File(folder, "name" + number);
    }

    private void obey(BufferedReader lines, PrintStream out) throws Exception {
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            try {
                obey(line.split("\t", -1));
                out.println("done");
            } catch (Exception fault) {
                out.println(error(fault));
            }
        }
    }

    private void obey(String[] words) throws Exception {
        switch (words[0]) {
            case "put":
                write(words[1], files.create(new Path(words[2]), true));
                break;
            case "append":
                write(words[1], files.append(new Path(words[2])));
                break;
            case "rm":
                must(files.delete(new Path(words[1]), true));
                break;
            case "mv":
                must(files.rename(new Path(words[1]), new Path(words[2])));
                break;
            case "own":
                files.setPermission(new Path(words[3]), new FsPermission(Short.parseShort(words[2], 8)));
                files.setOwner(new Path(words[3]), words[1], null);
                break;
            case "active":
                makeActive(Integer.parseInt(words[1]));
                break;
            default:
                throw new IllegalArgumentException("there is no command " + words[0]);
        }
    }

    private static void write(String file, OutputStream to) throws Exception {
        try (InputStream from = new FileInputStream(file); to) {
            from.transferTo(to);
        }
    }

    private static void must(boolean done) {
        if (!done) {
            throw new IllegalStateException("there is no such file");
        }
    }

    private void makeActive(int number) throws Exception {
        StateChangeRequestInfo asked = new StateChangeRequestInfo(RequestSource.REQUEST_BY_USER_FORCED);
        for (NameNode other : nameNodes) {
            if (other != nameNodes.get(number)) {
                other.getRpcServer().transitionToStandby(asked);
            }
        }
        nameNodes.get(number).getRpcServer().transitionToActive(asked);
    }

    private static String error(Throwable fault) {
        return ("error " + fault).replaceAll("\\s+", " ");
    }
}
