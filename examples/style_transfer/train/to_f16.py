import json,struct,sys
def load(p):
    b=open(p,'rb').read(); n,=struct.unpack('<Q',b[:8]); h=json.loads(b[8:8+n]); return h,b[8+n:]
for s in sys.argv[2:]:
    h,d=load(s); meta=h.pop('__metadata__',None); print(s,meta,len(h))
    out=b'';nh={}
    for k in sorted(h):
        e=h[k]; assert e['dtype']=='F32'
        a,b=e['data_offsets']; v=struct.unpack('<%df'%((b-a)//4),d[a:b])
        w=struct.pack('<%de'%len(v),*v); assert struct.unpack('<%de'%len(v),w)==v, k
        nh[k]={'dtype':'F16','shape':e['shape'],'data_offsets':[len(out),len(out)+len(w)]}; out+=w
    if meta: nh={'__metadata__':meta,**nh}
    j=json.dumps(nh,separators=(',',':')).encode(); j+=b' '*(-len(j)%8)
    open(sys.argv[1]+'/'+s.split('/')[-1],'wb').write(struct.pack('<Q',len(j))+j+out)
